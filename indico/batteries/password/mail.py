"""
Mails with links. The server of MAIL_URL sends them. In development without MAIL_URL they are printed.
"""

from __future__ import annotations

from contextlib import suppress
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

from indico import config
from indico.core.http.proxies import is_loopback
from indico.error import Unavailable
from indico.utils import LOGGER

# Subject and text of each mail. server.py may replace them: TEXTS["reset"] = ("Passwort", "... {link} ...").
TEXTS = {
    "verify": ("Confirm your e-mail address", "Open this link to begin your account:\n\n{link}\n"),
    "registered": ("You have an account", "Somebody registered with your address, but it has an account.\n"),
    "reset": ("Set a new password", "Open this link to set a new password:\n\n{link}\n"),
}
FOOTER = "\nA link is valid for an hour. If this was not you, ignore this mail.\n"


async def connect() -> Any:
    """Connect to the mail server. Returns None if mails are printed. Raises Unavailable if it fails."""
    if not config.MAIL_URL:
        if config.PRODUCTION:
            raise Unavailable("Mail can't be sent: MAIL_URL is not set")
        return None
    from aiosmtplib import SMTP, SMTPException

    url = urlsplit(config.MAIL_URL)
    host, is_tls = url.hostname or "", url.scheme == "smtps"
    connection = SMTP(
        hostname=host,
        port=url.port or (465 if is_tls else 587),
        username=unquote(url.username) if url.username else None,
        password=unquote(url.password or "") if url.username else None,
        timeout=10,  # seconds, for each step
        use_tls=is_tls,
        # A password is never sent in the clear. Otherwise TLS is used if the server has it.
        start_tls=True if url.username and not is_tls and not is_loopback(host) else None,
    )
    try:
        await connection.connect()
    except (SMTPException, OSError, ValueError) as error:
        raise Unavailable("Mail can't be sent at the moment") from error
    return connection


async def send(connection: Any, name: str, email: str, token: str) -> None:
    """Send the mail of this name, or none if the name is empty. A failure is logged."""
    message = make_message(name, email, token) if name else None
    if connection is None:
        print("" if message is None else f"To {email}: {message.get_content()}", flush=True)
        return
    from aiosmtplib import SMTPException

    try:
        if message is not None:
            await connection.send_message(message)
    except (SMTPException, OSError, ValueError) as error:
        # The text of the error has the address.
        LOGGER.warning("A mail could not be sent: %s", getattr(error, "code", type(error).__name__))
    finally:
        with suppress(SMTPException, OSError):
            await connection.quit()


def make_message(name: str, email: str, token: str) -> EmailMessage:
    url = config.PUBLIC_URL.rstrip("/")
    message = EmailMessage()
    message["From"] = config.MAIL_FROM or f"noreply@{urlsplit(url).hostname}"
    message["To"] = email
    message["Subject"], text = TEXTS[name]
    message.set_content(text.replace("{link}", f"{url}/{name}?token={token}") + FOOTER)
    return message
