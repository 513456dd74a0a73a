"""
gloom beside Celery, RQ, Dramatiq, Huey and dask.distributed, each through its own client library.

    python -m bench.clients.user_level

`__main__` is the command; `systems` lists the systems compared, and `report` prints the
results; `environment` installs the other systems. For each system a separate
process (`driver`) starts the system's processes (`farm`, an ``on_`` module),
measures (`meter`), and stops them. That process can import only its
system and the standard library.
"""
