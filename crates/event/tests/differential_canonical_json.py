"""Compares canonical JSON and JSON signatures with `canonicaljson` and `signedjson`.

Needs both packages from PyPI. Reads cases from standard input:

    cargo run -p event --example canonical_json_cases \
        | python3 crates/event/tests/differential_canonical_json.py

Exits with 1 at the first difference.
"""

import json
import sys

from canonicaljson import encode_canonical_json
from signedjson.key import decode_signing_key_base64, get_verify_key
from signedjson.sign import sign_json, verify_signed_json


def check(case):
    """Returns what differs, or None."""
    value = json.loads(case["text"])
    if encode_canonical_json(value).decode() != case["canonical"]:
        return "canonical form"
    algorithm, version = case["key_id"].split(":")
    key = decode_signing_key_base64(algorithm, version, case["seed"])
    ours = json.loads(case["signed"])
    verify_signed_json(ours, "domain", get_verify_key(key))
    if sign_json(value, "domain", key) != ours:
        return "signature"
    return None


def main():
    n_cases = 0
    for line in sys.stdin:
        difference = check(json.loads(line))
        if difference:
            print(f"case {n_cases}: the {difference} differs: {line}")
            return 1
        n_cases += 1
    print(f"{n_cases} cases agree")
    return 0 if n_cases else 1


if __name__ == "__main__":
    sys.exit(main())
