"""
What a history reports: each kind of fault, and nothing else.
"""

from __future__ import annotations

from typing import Any

from indico.tests.testutils.history import History, Seen, Window
from indico.tests.testutils.strict import StrictTest

STORED: dict[str, list[dict[str, Any]]] = {"ada": [{"created": 1, "write_0": 0, "write_1": 1}]}


def see(route: str, time: float, subject: str = "key", *, status: int = 200, **fields: Any) -> Seen:
    """A request that began at this time, and was answered at once."""
    given: dict[str, Any] = {
        "client": "a",
        "server": "first",
        "writes": frozenset(),
        "created": None,
        "write": None,
    }
    return Seen(route=route, subject=subject, status=status, began=time, ended=time, **{**given, **fields})


def write(time: float, number: int, *shown: int, **fields: Any) -> Seen:
    return see("user/update", time, "ada", write=number, writes=frozenset(shown), **fields)


def find(time: float, *shown: int, **fields: Any) -> Seen:
    return see("user/find", time, "ada", writes=frozenset(shown), **fields)


def end(time: float, route: str = "auth/logout", **fields: Any) -> Seen:
    return see(route, time, ends=frozenset({"key"}), **fields)


class HistoryTest(StrictTest):
    def find_faults(
        self, *seen: Seen, grace: float = 0, window: Window | None = None, stored: Any = STORED
    ) -> dict[str, int]:
        """Return how many faults there are of each kind that there is."""
        history = History(grace)
        history.seen += seen
        history.windows += [window] if window else []
        return {name: len(found) for name, found in history.find_faults(stored).items() if found}

    def test_a_history_without_a_fault(self) -> None:
        faults = self.find_faults(
            see("auth/login", 0, "ada", created=1),
            write(1, 0, 0),
            write(2, 1, status=503),
            find(3, 0, 1),
            see("auth/check", 4),
            end(5),
            see("auth/check", 6, status=401),
        )
        self.assertEqual(faults, {})

    def test_an_acknowledged_write_that_is_not_stored(self) -> None:
        self.assertEqual(self.find_faults(write(1, 2)), {"lost": 1})
        self.assertEqual(self.find_faults(write(1, 2, status=503)), {})

    def test_a_write_that_was_found_and_is_not_stored(self) -> None:
        self.assertEqual(self.find_faults(find(1, 0, 2)), {"rolled back": 1})

    def test_a_value_that_is_older_than_one_that_the_same_client_has_seen(self) -> None:
        seen = find(1, 0, 1), find(2, 0)
        self.assertEqual(self.find_faults(*seen), {"older": 1})
        self.assertEqual(self.find_faults(*seen, window=Window(1.5, 2.5)), {})
        self.assertEqual(self.find_faults(*seen, window=Window(2.5, 3)), {"older": 1})
        waited = seen[0], seen[1]._replace(ended=2.6)  # and was tried again on the next primary
        self.assertEqual(self.find_faults(*waited, window=Window(2.5, 3)), {})
        self.assertEqual(self.find_faults(*waited, window=Window(1, 2)), {"older": 1})
        self.assertEqual(self.find_faults(seen[0], find(2, 0, client="b")), {})

    def test_what_is_older_until_the_first_write_after_an_election(self) -> None:
        window = Window(1.2, 1.5)
        seen = find(1, 0, 1), find(2, 0)
        refused, stored = write(1.8, 1, status=503), write(2.5, 1, 0, 1)
        self.assertEqual(self.find_faults(*seen, window=window), {"older": 1})
        self.assertEqual(self.find_faults(*seen, refused, stored, window=window), {})
        self.assertEqual(self.find_faults(*seen, refused, stored, find(3, 0), window=window), {"older": 1})
        early = write(1.3, 1, 0, 1)
        self.assertEqual(self.find_faults(seen[0], early, find(1.7, 0), stored, window=window), {})

    def test_a_key_that_opens_after_its_end(self) -> None:
        for ending in (
            end(1),
            end(1, "key/remove"),
            end(1, "user/remove"),
        ):
            with self.subTest(ending.route):
                self.assertEqual(self.find_faults(ending, see("auth/check", 1.1)), {"ended key": 1})
                elsewhere = ending, see("auth/check", 1.9, server="second")
                self.assertEqual(self.find_faults(*elsewhere), {"ended key": 1})
                self.assertEqual(self.find_faults(*elsewhere, grace=1), {})
                self.assertEqual(self.find_faults(ending, see("auth/check", 1.9), grace=1), {"ended key": 1})
                late = ending, see("auth/check", 2.1, server="second")
                self.assertEqual(self.find_faults(*late, grace=1), {"ended key": 1})
                self.assertEqual(self.find_faults(*late, window=Window(2, 3)), {})
        self.assertEqual(self.find_faults(end(1, status=503), see("auth/check", 2)), {})

    def test_an_api_key_that_was_not_found_has_ended(self) -> None:
        removal = end(1, "key/remove", status=503), end(2, "key/remove", status=404)
        self.assertEqual(self.find_faults(*removal), {})
        self.assertEqual(self.find_faults(*removal, see("auth/check", 3)), {"ended key": 1})

    def test_two_users_and_two_times_of_creation(self) -> None:
        login = see("auth/login", 1, "ada", created=1)
        self.assertEqual(self.find_faults(login, stored={"ada": 2 * STORED["ada"]}), {"created": 1})
        self.assertEqual(self.find_faults(login, see("auth/login", 2, "ada", created=2)), {"created": 1})
        self.assertEqual(self.find_faults(login, stored={}), {"created": 1})

    def test_a_user_who_was_removed_and_is_still_there(self) -> None:
        login = see("auth/login", 1, "ada", created=1)
        removal = see("user/remove", 2, "ada")
        self.assertEqual(self.find_faults(login, removal), {"removed": 1})
        self.assertEqual(self.find_faults(login, removal, stored={}), {})
        self.assertEqual(self.find_faults(login, removal._replace(status=503)), {})
        self.assertEqual(self.find_faults(login._replace(status=503), login, removal), {})

    def test_other_statuses_and_requests_without_an_answer(self) -> None:
        for status in (200, 401, 503):
            self.assertEqual(self.find_faults(see("auth/check", 1, status=status)), {})
        for status in (0, 400, 404, 500, 504):
            self.assertEqual(self.find_faults(see("auth/check", 1, status=status)), {"status": 1})
        self.assertEqual(self.find_faults(end(1, "key/remove", status=404)), {"status": 1})
        history = History(0)
        history.failed.append("auth/check: reset")
        self.assertEqual(history.find_faults({})["unanswered"], ["auth/check: reset"])

    def test_the_longest_times(self) -> None:
        history = History(0)
        history.seen += [
            write(0, 0),
            see("auth/check", 2),
            write(3, 1, status=503),
            see("auth/check", 7)._replace(began=4),
            write(9, 1),
        ]
        self.assertEqual(
            history.measure(), {"slowest answer": 3, "without an answer": 4, "without a write": 9}
        )
