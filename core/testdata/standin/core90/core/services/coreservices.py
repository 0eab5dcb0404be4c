from legacy import CoreService as _CoreService
from legacy import ServiceMode


class CoreService(_CoreService):
    pass
