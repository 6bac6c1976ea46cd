"""
What the client is told of a failure, and what the log is told.
"""

from __future__ import annotations

import logging

from tornado.web import HTTPError

from indico.core.http.errors import to_error
from indico.error import (
    AuthError,
    BodyTooLarge,
    FacebookTokenError,
    IndicoError,
    InvalidJSON,
    InvalidValue,
    MethodNotAllowed,
    MissingField,
    MongoError,
    NotFound,
    RequestTimeout,
    RouteNotFound,
    ServerError,
    Unavailable,
    WrongFieldType,
)
from indico.tests.testutils.strict import StrictTest

SCREWED_UP = "we screwed up and have some debugging to do"


class MessageTest(StrictTest):
    def test_each_error_has_its_message_and_its_code(self) -> None:
        for error, code, message in (
            (IndicoError("I'm a teapot", 418), 418, "I'm a teapot"),
            (MissingField("oauth_id"), 400, "oauth_id field was not provided"),
            (
                WrongFieldType("oauth_id", 7, str),
                400,
                "Field oauth_id - 7 is type int but should be str",
            ),
            (InvalidJSON(), 400, "No JSON object could be decoded."),
            (InvalidValue("Field _id can't be changed"), 400, "Field _id can't be changed"),
            (FacebookTokenError(), 401, "Facebook Auth Token invalid"),
            (AuthError(), 401, "User not authenticated"),
            (RouteNotFound("nope"), 404, "nope route could not be found"),
            (RouteNotFound(None), 404, "None route could not be found"),
            (NotFound("order"), 404, "order could not be found"),
            (MethodNotAllowed("GET", "POST"), 405, "GET is not allowed here, but POST is"),
            (BodyTooLarge(10), 413, "The body is larger than 10 bytes"),
            (MongoError("disk full"), 500, "disk full"),
            (ServerError(), 500, SCREWED_UP),
            (Unavailable("come back later"), 503, "come back later"),
            (RequestTimeout(), 504, "The request took too long"),
        ):
            with self.subTest(type(error).__name__):
                self.assertIsInstance(error, IndicoError)
                self.assertEqual((error.code, error.message, str(error)), (code, message, message))

    def test_a_wrong_type_names_the_types_as_python_does(self) -> None:
        for given, required, message in (
            (True, int, "Field x - True is type bool but should be int"),
            (None, str, "Field x - None is type NoneType but should be str"),
            ([1, "a"], dict, "Field x - [1, 'a'] is type list but should be dict"),
        ):
            self.assertEqual(WrongFieldType("x", given, required).message, message)

    def test_what_the_client_sent_is_cut_where_it_gets_long(self) -> None:
        long = 1_000_000 * "x"
        for error in (
            WrongFieldType("field", long, int),
            WrongFieldType(long, 1, str),
            RouteNotFound(long),
            MethodNotAllowed(long, "POST"),
        ):
            with self.subTest(type(error).__name__):
                self.assertIn(100 * "x" + "... ", error.message)
                self.assertNotIn(101 * "x", error.message)

    def test_a_value_of_100_characters_is_not_cut(self) -> None:
        self.assertEqual(RouteNotFound(100 * "x").message, 100 * "x" + " route could not be found")


class AnswerTest(StrictTest):
    def test_an_indico_error_is_its_own_answer(self) -> None:
        error = InvalidValue("too deep")
        self.assertIs(to_error(error), error)

    def test_what_the_client_is_to_blame_for_is_not_logged(self) -> None:
        with self.assertNoLogs(level=logging.DEBUG):
            for error in (InvalidJSON(), AuthError(), RouteNotFound("x"), BodyTooLarge(1)):
                self.assertIs(to_error(error), error)

    def test_what_can_not_be_had_is_one_line_with_its_cause(self) -> None:
        error = Unavailable("The database can't be reached")
        error.__cause__ = OSError("no route to host")
        with self.assertLogs("indico", logging.WARNING) as logs:
            self.assertIs(to_error(error), error)
        [record] = logs.records
        self.assertEqual(record.levelno, logging.WARNING)
        self.assertIn("The database can't be reached", record.getMessage())
        self.assertIn("no route to host", record.getMessage())

    def test_what_has_no_cause_is_logged_without_one(self) -> None:
        with self.assertLogs("indico", logging.WARNING) as logs:
            to_error(Unavailable("The server is stopping"))
        self.assertEqual(logs.records[0].getMessage(), "The server is stopping")

    def test_the_cause_is_not_told_to_the_client(self) -> None:
        error = MongoError("The database rejected the operation")
        error.__cause__ = OSError("secret")
        with self.assertLogs("indico", logging.ERROR) as logs:
            answer = to_error(error)
        self.assertEqual(answer.message, "The database rejected the operation")
        self.assertIn("OSError: secret", logs.output[0])

    def test_an_http_error_is_answered_with_its_status_and_the_name_of_it(self) -> None:
        for code, reason in ((400, "Bad Request"), (404, "Not Found"), (409, "Conflict")):
            answer = to_error(HTTPError(code))
            self.assertEqual((answer.code, answer.message), (code, reason))

    def test_an_http_error_with_a_reason_is_answered_with_that(self) -> None:
        answer = to_error(HTTPError(409, reason="Taken"))
        self.assertEqual((answer.code, answer.message), (409, "Taken"))

    def test_an_http_error_of_an_unknown_status_has_an_answer_too(self) -> None:
        answer = to_error(HTTPError(499))
        self.assertEqual((answer.code, answer.message), (499, "Unknown"))

    def test_what_an_http_error_has_for_the_log_is_not_told_to_the_client(self) -> None:
        answer = to_error(HTTPError(403, "%s is on the list", "Ada"))
        self.assertEqual((answer.code, answer.message), (403, "Forbidden"))

    def test_what_an_http_error_says_of_our_own_fault_is_logged(self) -> None:
        with self.assertLogs("indico", logging.ERROR) as logs:
            self.assertEqual(to_error(HTTPError(500, "no %s", "ink")).message, "Internal Server Error")
        self.assertIn("no ink", logs.output[0])

    def test_anything_else_is_a_server_error_and_is_logged_with_its_traceback(self) -> None:
        with self.assertLogs("indico", logging.ERROR) as logs:
            try:
                raise KeyError("a secret")
            except KeyError as error:
                answer = to_error(error)
        self.assertIsInstance(answer, ServerError)
        self.assertEqual((answer.code, answer.message), (500, SCREWED_UP))
        [record] = logs.records
        self.assertEqual(record.levelno, logging.ERROR)
        self.assertNotIn("secret", record.getMessage())
        [line] = logs.output
        self.assertIn("Traceback (most recent call last)", line)
        self.assertIn("KeyError: 'a secret'", line)

    def test_an_error_of_the_interpreter_is_a_server_error_too(self) -> None:
        with self.assertLogs("indico", logging.ERROR):
            self.assertIsInstance(to_error(RecursionError()), ServerError)
