"""
Migrations change stored documents. Each is a file here, such as `0001_split_names.py`, with one function,
`up(database)`. `python -m indico.migrate` runs each once, in the order of their names.
"""
