"""What a generation records of its modules: what lock and records say, and how they fit."""

from __future__ import annotations

from modpkg.core.names import module_name
from modpkg.environment.generations import ModuleState
from modpkg.environment.plan import InstallPlan


def module_states(plan: InstallPlan) -> list[ModuleState]:
    """Return the locked modules of a plan, in the order of its lock."""
    fits: dict[str, dict[str, str]] = {}
    for fit in plan.fits:
        fits.setdefault(fit.module, {})[f"{fit.base} {fit.base_version}"] = fit.text()
    states = []
    for module in plan.lock.module:
        record = plan.transfer.records[module.name]
        states.append(
            ModuleState(
                name=module.name,
                version=module.version,
                kind=module.kind,
                registry=module.registry,
                release=module.release,
                summary=record.summary,
                license=record.license,
                size=sum(record.packs.values()) + sum(f.size for f in record.files.values()),
                requires=module.requires,
                extras=module.extras,
                fits=fits.get(module.name, {}),
                candidate=module.candidate,
                signer=module.signer,
                extra_requires=[
                    text
                    for extra, texts in record.extras.items()
                    if module_name(extra) in module.extras
                    for text in texts
                    if text not in module.requires
                ],
            )
        )
    return states
