"""
Prints the lowest versions that req.txt and the extra `dev` allow, one requirement a line, for pip to install.
Needs the package to be installed for the Python that runs this.
"""

import re
from importlib.metadata import requires

for line in requires("indico") or []:
    requirement = re.sub(r"""(;| and) extra == ['"]dev['"]""", "", line)
    if "extra ==" not in requirement:
        print(requirement.replace(">=", "==", 1))
