"""Members of consumer groups, each a process with a foreign client in it, all with one face.

A member is started with its options as one JSON argument, says what happens to it as lines of JSON on standard output,
and does what it is told on standard input: ``commit`` and ``close``. Times are seconds of CLOCK_MONOTONIC, which is one
clock for all processes of a host.

    {"event": "owns", "partitions": [["topic", 0], …], "t": …}        whenever that changed
    {"event": "assigning", "partitions": […], "t": …}                 before positions are fetched, if a client tells
    {"event": "record", "topic": …, "partition": 0, "offset": 5, "value": "…", "t": …}
    {"event": "commit", "offsets": [["topic", 0, 6], …], "generation": 3, "ok": true, "t": asked, "until": answered}
    {"event": "closed", "t": …}
    {"event": "error", "text": …, "t": …}
"""
