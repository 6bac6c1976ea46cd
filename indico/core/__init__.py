"""
The code that your files use. You need not open it to write a route. An update of the boilerplate replaces it.

Of the files that you edit, it imports only `indico.config` and `indico.error`.
"""
