"""
The command ``gloom``: one file a verb, and what verbs share.

    main        the command, and its verbs loaded when they are called
    connect     ``--master`` and ``--slave``
    run         a verb's coroutine in the reactor: signals, errors, exit status
    output      what people read on standard error, and programs on standard output
"""
