"""
The command ``gloom``: one module or package a verb, and the modules that verbs share.

    entry                        start of the process: Ctrl-C during the imports
    main                         the command itself; it imports a verb when that verb is called
    broker, work, submit, map,
    token, bench/, demo/         the verbs: options and help text
    submission, mapping          the work of submit and of map, which need Twisted
    connect, options             options that several verbs have; a connected master
    runner                       a verb's coroutine in the reactor: signals, errors, exit status
    stdio                        standard input and output without blocking the reactor
    values                       command line to job bodies, answers to output
    output, loglines, progress   messages on standard error
"""
