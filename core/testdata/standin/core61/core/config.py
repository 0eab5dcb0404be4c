class Configuration:
    def __init__(self, _id, _type, label=None, default="", options=None):
        self.id, self.type, self.label, self.default, self.options = _id, _type, label, default, options or []
