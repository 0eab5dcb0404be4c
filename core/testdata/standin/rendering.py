"""How CORE makes a service's files: by Mako, with node, config and data()."""

import inspect

from mako.template import Template


class Rendering(object):
    def __init__(self, node):
        self.node = node
        self.custom_config = {}
        self.config = {c.id: c for c in self.default_configs}

    def set_config(self, data):
        for key, value in data.items():
            if key not in self.config:
                raise ValueError("unknown config: %s" % key)
            self.custom_config[key] = value

    def render_config(self):
        if self.custom_config:
            return self.custom_config
        return {key: c.default for key, c in self.config.items()}

    def data(self):
        return {}

    def get_text_template(self, name):
        raise ValueError("unknown template: %s" % name)

    def rendered(self, name):
        template = Template(inspect.cleandoc(self.get_text_template(name)))
        return template.render_unicode(node=self.node, config=self.render_config(), **self.data())
