"""The compiled part of the package, which is left out where there is no C compiler.

Everything else about the package stands in pyproject.toml.
"""

import sys

from setuptools import Extension, setup

# Sums may be taken in any order, which lets them be computed side by side; not-a-number and
# infinity stay what they are. Not -ffast-math, with which the loaded code would change how the
# whole process computes.
EXACT_ENOUGH = (
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
    *("-fassociative-math", "-freciprocal-math"),
)
# PyTorch brings the same library of threads, which both then share.
THREADS = ["-fopenmp"]

native = Extension(
    "fastchat.engine._native",
    sources=["fastchat/engine/native.c"],
    extra_compile_args=["-O3", "-std=c11", "-Wno-psabi", *EXACT_ENOUGH, *THREADS],
    extra_link_args=THREADS,
    optional=True,
)
# Not tried elsewhere, where PyTorch uses other libraries of threads.
setup(ext_modules=[native] if sys.platform == "linux" else [])
