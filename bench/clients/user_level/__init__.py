"""
gloom beside Celery, RQ, Dramatiq, Huey and dask.distributed, each through its own client library.

    python -m bench.clients.user_level

`__main__` is the command; `systems` says what is compared and `report` what is
shown; `environment` is where the others are installed. Of each system a
process of its own (`driver`) starts what it needs (`farm`, an ``on_`` module),
measures (`meter`), and stops it again. What runs there has nothing but that
system and the standard library to import.
"""
