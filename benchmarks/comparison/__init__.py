"""``make bench``: our engine and server beside others, row by row, and the tables and plots of the document.

rows.py        what is measured, and its targets
contenders.py  engines that answer cases
servers.py     servers that answer requests
processes.py   their processes: stopped while others are measured, and ended
sessions.py    takes turns among them; keeps what was measured
machine.py     the machine: its fingerprint, and limits probed beside every row
limits.py      what a row could reach on these limits
tables.py, plots.py  the document's parts, made from what was kept
"""
