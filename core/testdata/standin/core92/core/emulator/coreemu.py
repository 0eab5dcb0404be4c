import emulation


class CoreEmu(emulation.CoreEmu):
    session = emulation.SessionThatIsTold
