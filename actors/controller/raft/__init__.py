"""The metadata quorum's Raft: pure, without input, output, clock or chance. ``machine.Raft`` is the way in.

``messages`` what voters say and what the shell tells them; ``effects`` what a step asks of the shell, in what order;
``log`` a voter's entries; ``roles`` the four roles; ``voting``, ``following`` and ``leading`` their rules.
Sources: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (the paper); Ongaro's thesis.
"""
