"""How every function of the kernel is compiled: callable by the interpreter, and without reference counts on arrays.

Counting references costs two atomic operations for each array passed to a function that is not inlined; the arrays are owned
outside and outlive every call, and nothing here allocates.
"""

from numba.extending import register_jitable

compiled = register_jitable(_nrt=False)
