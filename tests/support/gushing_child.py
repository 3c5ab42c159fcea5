"""A child that says what no engine says: bytes that are no text, without an end and without a line's end."""

import os

while True:
    os.write(1, b"\xff\x00\x01" * 20_000)
