"""
Clients of a broker; import the one that suits the program.

`gloom.client.deferred` is for programs on Twisted; `gloom.client.blocking` is
for plain scripts and imports no Twisted. Both stand on `gloom.client.session`.
"""
