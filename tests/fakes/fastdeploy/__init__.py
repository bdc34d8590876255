"""FastDeploy's XPU ops in its three forms, in NumPy: names, arguments and results as in their sources.

Each op checks where its tensors are, their types, shapes and layout, with a sentence that says what is wrong.
Which keys a query sees, and where keys are written, it decides from the lods, maps and tables that it is given,
as the kernels do. A tensor is "on the host" if the host's place made it; all others count as on the device.
"""
