"""The plugin file of ``twistd gloom``; all code is in `gloom.tap`."""

from twisted.application.service import ServiceMaker

gloom = ServiceMaker(
    "gloom",
    "gloom.tap",
    "Distribute jobs: masters submit them, slaves take them one at a time.",
    "gloom",
)
