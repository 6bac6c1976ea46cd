"""
Side-by-side measurements: `python -m bench --help`. See docs/performance.rst for the method.
"""
