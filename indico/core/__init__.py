"""
The code that the other packages use. You can write routes without opening it. An update of the boilerplate
replaces it.

Of the files that you edit, it imports only `indico.config` and `indico.error`.
"""
