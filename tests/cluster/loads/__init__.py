"""Clients under load, each kind a process of its own, that write what they saw as a history for ``tests.checker``.

A load is started with its options as one JSON argument. It writes ``{"event": "running"}`` once every client of it has
done something, then a line a second of what was asked and answered. On standard input it is told ``stop`` (no more
sends; all that was sent is answered, ``{"event": "stopped"}``) and then ``drain`` (members and followers read on to
the ends that are given, commit and close; the process ends).
"""
