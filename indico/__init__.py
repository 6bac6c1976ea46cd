"""
A boilerplate for JSON API servers: Tornado for HTTP, MongoDB for storage.
"""
