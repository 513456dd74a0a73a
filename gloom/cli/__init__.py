"""
The command ``gloom``: one file a verb, and what verbs share.

    entry                        where the process begins: Ctrl-C while the rest is imported
    main                         the command, and its verbs loaded when they are called
    submit, map, work, demo      a verb's options and help text
    submission, mapping,
    demonstration, farm          what submit, map and demo do
    connect, options             options that verbs share; a connected master
    run                          a verb's coroutine in the reactor: signals, errors, exit status
    streams                      standard input and output without blocking
    values                       text to bodies, answers to text
    output, loglines, progress   what is said on standard error
"""
