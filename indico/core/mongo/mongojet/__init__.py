"""
The driver mongojet, MongoDB's driver for Rust, with PyMongo's interface.

The most frequent operations use the Rust driver. Their results and errors are those of PyMongo. For all
others, such as change streams, transactions, bulk writes and rare options, there is a PyMongo client for the
same URI. It connects when it is first used.
"""

from indico.core.mongo.mongojet.client import Client as Client
