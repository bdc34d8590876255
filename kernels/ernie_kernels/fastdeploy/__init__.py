"""The ops over FastDeploy's kernels for Kunlunxin XPUs.

No XPU was available: they are checked over a stand-in of FastDeploy's ops in its three forms, which takes what
their sources say they take.
"""
