"""
Changes of what is stored. Each is a file here, named by its number and what it does, such as
`0001_split_names.py`, with one function, `up(database)`. `python -m indico.migrate` runs each once.
"""
