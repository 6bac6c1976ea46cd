"""
The machine room: you need never open it to write a route, and an update of the boilerplate replaces it.

It knows `indico.config` and `indico.error`, and no other room.
"""
