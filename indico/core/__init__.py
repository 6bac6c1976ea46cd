"""
The machine room. You can write routes without opening it. An update of the boilerplate replaces it.

It imports `indico.config` and `indico.error`, and no other room.
"""
