"""
The key of a request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from indico.error import AuthError

KEY = re.compile("(?:indico_key|authorization (?i:Bearer) *) ([0-9a-f]{56})")
OTHER_SCHEME = re.compile(r"(?i)(?!(.*,)?\s*bearer\b)[a-z][\w-]* +\S")  # commas join repeated headers


def read_key(headers: Mapping[str, str]) -> str:
    """
    Return the key of a request, from the header `indico_key` or `Authorization: Bearer <key>`. Raises
    AuthError if it has both or neither, or another value. Other schemes, such as Basic for a proxy, are
    ignored.
    """
    values = {name.lower(): value for name, value in headers.items()}
    if OTHER_SCHEME.match(values.get("authorization", "")):
        del values["authorization"]
    lines = [f"{name} {values[name]}" for name in ("indico_key", "authorization") if name in values]
    match = KEY.fullmatch("\n".join(lines))
    if match is None:  # also for a repeated header, whose values are joined by a comma
        raise AuthError()
    return match[1]
