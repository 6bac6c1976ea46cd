"""
The order of decorators, and what they say of an action.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import product
from typing import Any

from indico.core.decorators import ORDER, ActionInfo, add_decorator, check_order, get_info
from indico.routes.handler import IndicoHandler
from indico.tests.testutils.strict import StrictTest
from indico.utils import type_check, unpack
from indico.utils.auth.auth_utils import auth


def make_decorator(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator of this name that does nothing, as a battery has it."""

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        check_order(name, function)

        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        add_decorator(name, wrapper, get_info(function))
        return wrapper

    return decorator


def make_action() -> Callable[..., Any]:
    def action(handler: Any, a: int) -> int:
        return a

    return action


class OrderTest(StrictTest):
    decorators: dict[str, Any] = {
        **{name: make_decorator(name) for name in ("allow", "limit", "idempotent", "job")},
        "auth": auth,
        "unpack": unpack("a"),
        "type_check": type_check(int),
    }

    def test_in_their_order_all_of_them_may_stand_above_an_action(self) -> None:
        self.assertEqual(set(ORDER), set(self.decorators))
        action = make_action()
        for name in reversed(ORDER):
            action = self.decorators[name](action)
        self.assertEqual(get_info(action), ActionInfo(ORDER, ("a",), {}, (int,)))

    def test_of_two_in_any_other_order_the_upper_one_complains(self) -> None:
        for upper, lower in product(ORDER, ORDER):
            with self.subTest(upper=upper, lower=lower):
                action = self.decorators[lower](make_action())
                if ORDER.index(upper) < ORDER.index(lower):
                    self.decorators[upper](action)
                elif upper == lower:
                    with self.assertRaisesRegex(TypeError, f"@{upper} stands above .*action twice"):
                        self.decorators[upper](action)
                else:
                    with self.assertRaisesRegex(TypeError, f"@{upper} goes below @{lower}; .*: @auth @allow"):
                        self.decorators[upper](action)

    def test_it_is_noticed_beyond_the_one_right_below(self) -> None:
        with self.assertRaisesRegex(TypeError, "@unpack goes below @limit"):
            unpack("a")(self.decorators["limit"](type_check(int)(make_action())))
        with self.assertRaisesRegex(TypeError, "@job goes below @auth"):
            self.decorators["job"](auth(self.decorators["limit"](make_action())))

    def test_a_decorator_of_somebody_elses_may_stand_between(self) -> None:
        def twice(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def wrapper(*args: Any) -> Any:
                return 2 * function(*args)

            return wrapper

        action = unpack("a")(twice(type_check(int)(make_action())))
        self.assertEqual(action(None, '{"a": 3}'), 6)
        self.assertEqual(get_info(action).decorators, ("unpack", "type_check"))
        with self.assertRaises(TypeError):
            type_check(int)(twice(unpack("a")(make_action())))


class InfoTest(StrictTest):
    def test_a_function_without_decorators_says_nothing(self) -> None:
        self.assertEqual(get_info(make_action()), ActionInfo())

    def test_the_function_below_may_be_decorated_again(self) -> None:
        action = make_action()
        unpack("b")(action)
        self.assertEqual(get_info(unpack("c")(action)).fields, ("c",))
        self.assertEqual(get_info(action), ActionInfo())

    def test_a_decorated_function_that_no_client_can_call_complains_whatever_decorates_it(self) -> None:
        for name in ORDER:
            with (
                self.subTest(name),
                self.assertRaisesRegex(TypeError, "^No client can call TeaHandler.a_b: "),
            ):
                type("TeaHandler", (IndicoHandler,), {"a_b": make_decorator(name)(make_action())})
