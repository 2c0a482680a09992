"""All checks, in the order in which a setup is put right: what comes first often explains what follows."""

from __future__ import annotations

from qtasks.cli.doctor import app_checks, broker_checks, settings_checks, store_checks, webhook_checks

CHECKS = (
    *settings_checks.CHECKS,
    *app_checks.CHECKS,
    *store_checks.CHECKS,
    *broker_checks.CHECKS,
    *webhook_checks.CHECKS,
)
