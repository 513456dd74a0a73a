"""
The client's side of the protocol: masters submit jobs, slaves do them.

Import them from the package that suits the program: `gloom.client.deferred` for
programs on Twisted, `gloom.client.blocking` for plain scripts without it. Both
use the modules here, which import no Twisted: `session` turns requests into
frames and frames into events, `options` describes the parameters that all
clients share, `terms` those of a job, and `tls` a client's certificates.
"""
