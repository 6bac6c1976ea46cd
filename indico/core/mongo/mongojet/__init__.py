"""
The driver mongojet, which is MongoDB's own for Rust, under the names of PyMongo.

What servers do most goes through the Rust driver, and answers and fails as PyMongo does. All else, such as
change streams, transactions, bulk writes and rare options, is left to a client of PyMongo's for the same
URI, which connects when it is first needed.
"""

from indico.core.mongo.mongojet.client import Client as Client
