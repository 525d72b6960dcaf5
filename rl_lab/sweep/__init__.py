"""Many runs by one file: the plan, what is left of it, what it costs, and a pool of processes that makes them.

Only an executor, such as the pool's own local processes, knows where runs are made: to all else a run is a folder and a
command line.
"""
