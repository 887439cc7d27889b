"""A mail server on loopback that keeps nothing: each mail is a line of JSON on standard output.

    mail_sink.py PORT CERTIFICATE KEY USER PASSWORD

It speaks STARTTLS and takes mail over TLS from that user alone.
"""

import email
import email.policy
import json
import logging
import ssl
import sys
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult


# The library warns of its own doings.
logging.getLogger("mail.log").setLevel(logging.CRITICAL)


class Sink:
    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        parts = {part: message.get_body((part,)) for part in ("plain", "html")}
        mail = {
            "to": envelope.rcpt_tos,
            "headers": {name.lower(): str(value) for name, value in message.items()},
            **{part: body and body.get_content() for part, body in parts.items()},
        }
        print(json.dumps(mail), flush=True)
        return "250 taken"


def main():
    port, certificate, key, user, password = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def check(server, session, envelope, mechanism, auth):
        return AuthResult(success=(auth.login, auth.password) == (user.encode(), password.encode()))

    controller = Controller(
        Sink(),
        hostname="127.0.0.1",
        port=int(port),
        tls_context=context,
        require_starttls=True,
        auth_required=True,
        authenticator=check,
        auth_exclude_mechanism=["LOGIN"],
    )
    controller.start()
    print(json.dumps({"ready": True}), flush=True)
    threading.Event().wait()


main()
