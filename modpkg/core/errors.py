"""Every error a person can meet, in one place.

Each error is a class with a code and one sentence that names the thing and the remedy.
Codes are grouped by room: M1 names and manifests, M2 release, M3 registry, M4 resolving and
locking, M5 transfer, store and environments, M6 composing, M7 running, M8 import and export,
M9 the command line; patches and merges are M73 to M75. A code, once released, keeps its meaning.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ModpkgError(Exception):
    """Base of all errors that are told to people: exit status 1, no traceback.

    Subclasses fill in ``template`` from keyword values; the values stay available in
    ``values`` for ``--json`` and for tests.
    """

    code: ClassVar[str] = "M000"
    template: ClassVar[str] = "{message}"

    def __init__(self, **values: Any) -> None:
        self.values = values
        sentence = self.template.format(**values)
        # a hint that asks ("did you mean …?") has ended the sentence already
        super().__init__(sentence[:-1] if sentence.endswith("?.") else sentence)


# M1: names, versions, manifests -----------------------------------------------------------


class BadName(ModpkgError):
    code = "M101"
    template = (
        "{name!r} is not a module name: use letters, digits, '-', '_' and '.', "
        "beginning and ending with a letter or digit."
    )


class BadVersion(ModpkgError):
    code = "M102"
    template = "{version!r} is not a version: write it as PEP 440 has it, like 2.1.0 or 3.0rc1."


class BadRequirement(ModpkgError):
    code = "M103"
    template = (
        "{requirement!r} is not a requirement ({reason}): write it like "
        "'summarizer>=2.1', 'summarizer[news]~=2.0', summarizer@2.1 or summarizer@^2.1."
    )


class BadDigest(ModpkgError):
    code = "M104"
    template = "{digest!r} is not a digest: it has to be 'sha256:' and 64 lower-case hex digits."


class UnsafePath(ModpkgError):
    code = "M105"
    template = (
        "{path!r} is not a path that a release may hold ({reason}): use relative paths with "
        "'/' that stay inside the module."
    )


class BadLicense(ModpkgError):
    code = "M106"
    template = (
        "{license} is not an SPDX licence expression{hint}; write it like 'Apache-2.0', "
        "'MIT OR Apache-2.0', or 'LicenseRef-' and a name of your own."
    )


class BadAlias(ModpkgError):
    code = "M107"
    template = (
        "{alias!r} is not an alias of a registry: use letters, digits, '-', '_' and '.', and put "
        'the address under [registries], like: acme = "https://models.acme.example".'
    )


class BadSpecifier(ModpkgError):
    code = "M108"
    template = (
        "{specifier!r} is not a version specifier{reason}; write it like '>=2.1', '>=1,<2', "
        "'~=2.0', '^2.1', '==2.1.0', or '*' for any version."
    )


class BadCutoff(ModpkgError):
    code = "M109"
    template = (
        "{cutoff!r} is not a cut-off: write a date like '2026-01-01', a time like "
        "'2026-01-01T12:00:00Z', or a span before now like '7 days' (minutes, hours, days, weeks)."
    )


class ManifestError(ModpkgError):
    code = "M110"
    template = "{where}: {message}"


class ManifestMissing(ModpkgError):
    code = "M111"
    template = (
        "There is no modpkg.toml (and no [tool.modpkg] in pyproject.toml) in {folder} or above it; "
        "'modpkg init' makes one."
    )


class ManifestKindNeeded(ModpkgError):
    code = "M112"
    template = "{path} describes {found}, but this command needs {needed}; {remedy}"


# M2: releases -----------------------------------------------------------------------------


class PackError(ModpkgError):
    code = "M201"
    template = "{path} is not a sound safetensors file: {reason}; fetch or build it again."


class NotData(ModpkgError):
    code = "M202"
    template = (
        "{path} is {what}, and a module carries data only; remove it, "
        "or convert weights to safetensors first."
    )


class LinkInRelease(ModpkgError):
    code = "M203"
    template = "{path} is a link, and a release holds only plain files; replace it by the file."


class NoWeights(ModpkgError):
    code = "M204"
    template = (
        "{folder} has no *.safetensors file, and a module of kind {kind!r} needs weights; "
        "'modpkg import' makes a module from what you have."
    )


class DuplicateTensor(ModpkgError):
    code = "M205"
    template = "Tensor {tensor!r} is both in {first} and in {second}; keep it in one of them."


class AdapterRefused(ModpkgError):
    code = "M206"
    template = "{path}: {reason}."


class NothingMatches(ModpkgError):
    code = "M207"
    template = (
        "No tensor of {module} fits {base}: {example!r} would act on {target!r}, which the base "
        "does not have; check that this is the base that {module} was made for."
    )


class UnboundTensor(ModpkgError):
    code = "M208"
    template = "Tensor {tensor!r} of {module} has no place in {base}: {reason}."


class BadRecord(ModpkgError):
    code = "M209"
    template = "{what} is not a sound {kind}: {reason}."


class BaseNeeded(ModpkgError):
    code = "M210"
    template = (
        "{where}: a module of kind {kind!r} acts on a base; name the base it was made for under "
        "[dependencies], like 'smollm2-135m = \">=1.0,<2\"'."
    )


class FileMissing(ModpkgError):
    code = "M211"
    template = "{where}: {path} does not exist; {remedy}."


class BadEncoding(ModpkgError):
    code = "M212"
    template = (
        "{what} cannot be decoded: {reason}; it was damaged or made wrongly, and nothing of it was "
        "used. Ask the registry's owner to restore it."
    )


# M3: registries ---------------------------------------------------------------------------


class RegistryMissing(ModpkgError):
    code = "M301"
    template = (
        "There is no registry at {url}: it has no registry.json ({reason}); check the address, "
        "or publish to it once to make it."
    )


class RegistryUnreachable(ModpkgError):
    code = "M302"
    template = "The registry at {url} could not be read: {reason}; try again, or use --offline."


class RegistryNewer(ModpkgError):
    code = "M303"
    template = (
        "The registry at {url} follows spec version {spec}, newer than this modpkg knows "
        "({known}); update modpkg."
    )


class UnknownModule(ModpkgError):
    code = "M304"
    template = "There is no module named {name!r} in the registry {registry}{hint}."


class DigestMismatch(ModpkgError):
    code = "M305"
    template = (
        "{what} does not hash to {expected} but to {actual}: it was damaged or tampered with "
        "at {source}; nothing of it was used. Ask the registry's owner to restore it."
    )


class BlobMissing(ModpkgError):
    code = "M306"
    template = "{what} ({digest}) is not at {source}; ask the registry's owner to restore it."


class AlreadyPublished(ModpkgError):
    code = "M307"
    template = (
        "{name} {version} is already published in {registry} with other content, and a version is "
        "never replaced; raise the version in {manifest}."
    )


class NotWritable(ModpkgError):
    code = "M309"
    template = (
        "{url} cannot be published to: {reason}; point --registry at a folder you can write to."
    )


class IndexLies(ModpkgError):
    code = "M310"
    template = (
        "The index of {registry} says {claim} of {name} {version}, but its release record says "
        "{truth}; the registry was tampered with or damaged, and nothing of it was used."
    )


class NotBuilt(ModpkgError):
    code = "M311"
    template = "There is nothing to publish in {folder}; run 'modpkg build' first."


class NoSuchRelease(ModpkgError):
    code = "M312"
    template = "{name} {version} is not in the registry {registry}{hint}."


class RegistryGone(RegistryUnreachable):
    code = "M313"
    template = (
        "The registry at {url} answers 410 Gone to {path}: it was taken away for good; ask its "
        "owner where it is now, and put that address under [registries]."
    )


class RegistryRefuses(RegistryUnreachable):
    code = "M314"
    template = "The registry at {url} {reason} ({status}); {remedy}."


class SecretInClear(ModpkgError):
    code = "M315"
    template = (
        "What {config} has for {url} is not sent over plain http, where others can read it; "
        "use an https:// address."
    )


class SecretInAddress(ModpkgError):
    code = "M316"
    template = (
        "The address of {url} has a user or a password in it, which others may see; take it out, "
        "and write it into {config}."
    )


class TensorsElsewhere(ModpkgError):
    code = "M317"
    template = (
        "{name} {version} was built for a registry that has {count} of its packs already, and "
        "{registry} does not; run 'modpkg build --registry {registry}' and publish again."
    )


# M4: resolving and locking ----------------------------------------------------------------


class ResolutionImpossible(ModpkgError):
    code = "M401"
    template = "There is no set of versions that fits together:\n{explanation}"


class NotLocked(ModpkgError):
    code = "M402"
    template = "{name!r} is not among the modules of {path}{hint}; there is nothing to update."


class LockError(ModpkgError):
    code = "M410"
    template = "{path}: {reason}; run 'modpkg lock' to make it anew."


class LockMissing(ModpkgError):
    code = "M411"
    template = "There is no {path}; run 'modpkg lock' to make it."


class LockStale(ModpkgError):
    code = "M412"
    template = "{path} is not what {manifest} asks for ({reason}); run 'modpkg lock'."


class RegistryChanged(ModpkgError):
    code = "M413"
    template = (
        "{name} was locked from the registry named {locked!r}, but {alias!r} now is a registry "
        "named {actual!r}; put the right address under [registries], or run 'modpkg lock'."
    )


class EngineTooOld(ModpkgError):
    code = "M415"
    template = (
        "{name} {version} needs modpkg {specifier}, and this is modpkg {engine}; install that "
        "modpkg, or 'modpkg update {name}' to see whether another version will do."
    )


class Drifted(ModpkgError):
    code = "M414"
    template = (
        "{module} was made for {base} with other weights: {changed} of the {touched} tensors it "
        "touches differ in {base} {version}; leave out --strict to accept that."
    )


# M5: transfer, store, environments --------------------------------------------------------


class Offline(ModpkgError):
    code = "M501"
    template = "--offline forbids fetching {what}; run the same command once without --offline."


class DiskFull(ModpkgError):
    code = "M502"
    template = (
        "There is not enough disk at {path}: {needed} needed, {free} free; nothing was changed. "
        "Free some, or set MODPKG_HOME to a folder with more."
    )


class NoEnvironment(ModpkgError):
    code = "M503"
    template = "Nothing is installed in {path}; 'modpkg install NAME' does it."


class NotInstalled(ModpkgError):
    code = "M504"
    template = "{name!r} is not installed in {path}{hint}."


class NothingToRollBack(ModpkgError):
    code = "M505"
    template = "{path} has no earlier generation to return to{hint}."


class EnvironmentDamaged(ModpkgError):
    code = "M506"
    template = "{path} is damaged ({reason}); 'modpkg install' repairs it."


class StoreDamaged(ModpkgError):
    code = "M508"
    template = (
        "{what} has changed in {path} since it was fetched; nothing of it was used, and "
        "'modpkg store verify' repairs it."
    )


class NotARequirementHere(ModpkgError):
    code = "M507"
    template = "{name!r} is not among the [dependencies] of {manifest}{hint}."


# M6: composing ----------------------------------------------------------------------------


class ComposeError(ModpkgError):
    code = "M601"
    template = "{model}: {reason}."


class UnknownOperator(ModpkgError):
    code = "M602"
    template = "{where}: there is no operator {op!r}; known are {known}."


class UnknownMethod(ModpkgError):
    code = "M620"
    template = "{where}: there is no method {method!r}; known are {known}."


class ExecutorProblem(ModpkgError):
    code = "M621"
    template = "--executor {address}: {reason}."


class AccountsDoNotBalance(ModpkgError):
    code = "M603"
    template = (
        "{model}: {count} tensor(s) of {module} would not be used, {example!r} among them; "
        "composing uses every tensor exactly once."
    )


class ShapeMismatch(ModpkgError):
    code = "M604"
    template = (
        "{module}: {tensor!r} has shape {actual}, but {target!r} of {base} needs {expected}; "
        "the module was made for another base."
    )


class NotFinite(ModpkgError):
    code = "M605"
    template = "{model}: composing {tensor!r} gives NaN or infinity; a module's weights are broken."


class AdapterUnsupported(ModpkgError):
    code = "M606"
    template = (
        "{module} cannot be composed exactly: {reason}. "
        "modpkg refuses rather than apply a part of it."
    )


class ExpertIncomplete(ModpkgError):
    code = "M608"
    template = (
        "{module} has no {missing!r}: an expert, or a router, has something for every layer of "
        "{base}; build it with all of them."
    )


class MixtureRefused(ModpkgError):
    code = "M609"
    template = "{model} cannot be a mixture of experts exactly: {reason}."


class ResultDiffers(ModpkgError):
    code = "M607"
    template = (
        "{model}: the composed weights are {actual}, but modpkg.lock has {expected}; "
        "another machine or engine rounds differently, or the lock was damaged. "
        "'modpkg lock' takes the new result."
    )


# M7: running ------------------------------------------------------------------------------


class NotRunnable(ModpkgError):
    code = "M701"
    template = "{name} is of kind {kind!r} and is not a model by itself; {remedy}."


class ArchitectureUnknown(ModpkgError):
    code = "M702"
    template = (
        "{name}: the installed transformers {version} has no architecture {architecture!r}; "
        "update transformers, or install the Python package that registers it."
    )


class ExtraNeeded(ModpkgError):
    code = "M703"
    template = "{what} needs the Python package {package}; pip install 'modpkg[{extra}]'."


class WeightsDoNotFit(ModpkgError):
    code = "M704"
    template = "{name}: the architecture and the weights disagree: {reason}."


class TaskUnknown(ModpkgError):
    code = "M705"
    template = "{name}: task {task!r} cannot be run; known are {known}."


class EmptyInput(ModpkgError):
    code = "M706"
    template = "There is no text in {source}; give a file, or '-' and text on standard input."


class RemoteCode(ModpkgError):
    code = "M707"
    template = (
        "{name}: its {file} asks for code of its own ({key}), and modpkg never runs code out of a "
        "registry; use a model whose architecture transformers or an installed package has."
    )


class LiveRefused(ModpkgError):
    code = "M708"
    template = "{name} cannot be live: {reason}."


class PromptRefused(ModpkgError):
    code = "M700"
    template = "The virtual tokens of {name} {reason}."


class AdapterChoice(ModpkgError):
    code = "M709"
    template = "{choice} cannot be chosen: {reason}."


# M8: import and export --------------------------------------------------------------------


class ImportRefused(ModpkgError):
    code = "M801"
    template = "{path} cannot be imported: {reason}."


class FolderNotEmpty(ModpkgError):
    code = "M803"
    template = "{path} exists and is not empty; name a new folder."


class NotExportable(ModpkgError):
    code = "M805"
    template = "{name} cannot be written as {form}: {reason}."


class NothingToCompare(ModpkgError):
    code = "M804"
    template = (
        "{what} cannot be compared: {reason}. Name a release (NAME==VERSION), an installed model "
        "(NAME or NAME@GENERATION) or a folder with *.safetensors."
    )


# M9: the command line ---------------------------------------------------------------------


class UsageProblem(ModpkgError):
    """A usage error found after parsing: exit status 2."""

    code = "M901"
    template = "{message}"


class RedirectAmbiguous(ModpkgError):
    code = "M902"
    template = (
        "The shell read '>' as a redirect into a file named {file!r}, and it cannot be told which "
        "of {names} it belongs to; quote the requirement: modpkg {command} '{example}'."
    )


# M710 to M729: tests, reports and vetting -----------------------------------------------------


class BadReport(ModpkgError):
    code = "M710"
    template = "{what} is not a sound report: {reason}; 'modpkg test' writes a new one."


class LyingReport(ModpkgError):
    code = "M711"
    template = (
        "{path} is a report of another {what}: it says {said}, and what is built here is {actual}. "
        "Run 'modpkg test' again, or take the file out."
    )


class BadCases(ModpkgError):
    code = "M712"
    template = "{where}: {reason}; these are the cases of a test, and none of them was run."


class UnknownMetric(ModpkgError):
    code = "M713"
    template = "{where}: there is no metric {metric!r}{hint}."


class BadMetric(ModpkgError):
    code = "M714"
    template = "Metric {metric!r} cannot be used: {reason}."


class MetricUnfit(ModpkgError):
    code = "M715"
    template = (
        "{test}: metric {metric!r} needs {needs}, which {name} is not; "
        "take a metric that fits its task."
    )


class OutputNotFinite(ModpkgError):
    code = "M716"
    template = "{name} gives NaN or infinity in test {test!r} for {text}; its weights are broken."


class StoppedTest(ModpkgError):
    code = "M717"
    template = (
        "Test {test!r} of {suite} did not end on {name} within {limit:g} seconds and was stopped; "
        "give it less to do, or more time (--time-limit, or time_limit in [[tests]])."
    )


class CrashedTest(ModpkgError):
    code = "M718"
    template = "Test {test!r} of {suite} ended the process that ran it on {name} ({reason})."


class NothingToTest(ModpkgError):
    code = "M719"
    template = "There is nothing to test: {reason}."


class NotASuite(ModpkgError):
    code = "M720"
    template = "{name} {version} is of kind {kind!r}, and [suites] names modules of kind 'suite'."


class NothingToVet(ModpkgError):
    code = "M721"
    template = "{what} cannot be vetted: {reason}."


# M76-M78: versions, lineage, licences ------------------------------------------------------


class OriginUnknown(ModpkgError):
    code = "M760"
    template = (
        "{where}: {name} {version} is not in the registry {registry}{hint}; "
        "name under [provenance] a release that is published."
    )


# M73-M75: patches and merges --------------------------------------------------------------


class BadPatch(ModpkgError):
    code = "M730"
    template = (
        "{patch} cannot be used as a patch: {reason}; make it anew with 'modpkg patch create'."
    )


class PatchForAnotherBase(ModpkgError):
    code = "M731"
    template = (
        "{patch} was made for {made_for}, and {tensor!r} of {base} is another one; name the base "
        "that it was made for, or merge the two: modpkg merge --base {made_for} {patch} OTHER."
    )


class PatchMatchesNothing(ModpkgError):
    code = "M732"
    template = (
        "{patch} has nothing to act on: {base} does not have {tensor!r}; name the base that it was "
        "made for."
    )


class PatchNotFinite(ModpkgError):
    code = "M733"
    template = (
        "{tensor!r} of {what} changed and has {count} values that are NaN or infinite; mend the "
        "training that made it."
    )


class NothingChanged(ModpkgError):
    code = "M734"
    template = "{copy} has the tensors and files of {base}: there is nothing to make a patch of."


class NotACopy(ModpkgError):
    code = "M735"
    template = "{what} is no changed copy of {base}: {reason}."


class PatchGivesOther(ModpkgError):
    code = "M736"
    template = (
        "{patch} does not make the {tensor!r} that it says it does from {base} (it made {actual}, "
        "not {expected}); report this with both, and use the copy that the patch was made of."
    )


class MergeConflicts(ModpkgError):
    code = "M740"
    template = (
        "{conflicts}; say how to choose: --method mean (or ties, fisher, auto …) for tensors, or "
        "--resolution FILE with, for example, '[{table}]' and '\"{example}\" = \"ours\"' (ours, "
        "theirs, mean or base)."
    )


class BadResolution(ModpkgError):
    code = "M741"
    template = "{path}: {entry!r} {reason}."


class CannotMerge(ModpkgError):
    code = "M742"
    template = "{what} cannot be merged: {reason}."


class BumpTooSmall(ModpkgError):
    code = "M761"
    template = (
        "{name} {version} would be a {level} change after {against}:{facts}\n"
        "Raise the version in modpkg.toml to {lowest} or higher, or publish it with "
        '--allow-breaking "why", which is recorded.'
    )


class LicenseRefused(ModpkgError):
    code = "M770"
    template = (
        "{where}: {name} {version} is under {license}, and {reason} ({policy}); take another "
        "module, or name it under [licenses] exceptions."
    )


class LicenseConflict(ModpkgError):
    code = "M771"
    template = (
        "{where}: {model} is not installed: {text} ({policy}); take other modules, or name one of "
        "{names} under [licenses] exceptions if its owner permits it."
    )


# M79: bisecting and tested updates --------------------------------------------------------


class NothingBetween(ModpkgError):
    code = "M790"
    template = (
        "{old} and {new} have the same versions of the same modules, so no change of theirs can "
        "break anything; name two locks that differ."
    )


class GoodEndFails(ModpkgError):
    code = "M791"
    template = (
        "{command!r} has to pass with {end}, and it {how}, so nothing that came later is to blame; "
        "{remedy}. What it printed: {log}"
    )


class BadEndPasses(ModpkgError):
    code = "M792"
    template = (
        "{command!r} passes with {end}, so there is nothing to find; name a lock with which it "
        "fails, or, if it fails only now and then, add --repeat."
    )


class EndNotTested(ModpkgError):
    code = "M793"
    template = "{command!r} could not be tried with {end}, and both ends have to be: {reason}"


class CommandEnded(ModpkgError):
    code = "M794"
    template = (
        "{command!r} {how} with {label}, which is no verdict (0 is good, 125 skips, 1 to 127 are "
        "bad). Nothing was changed; the same command goes on from here. What it printed: {log}"
    )


class LockNotThere(ModpkgError):
    code = "M795"
    template = (
        "A lock has {name} {version} ({release}), and the registry {registry} has no such release; "
        "use the registry that it was locked from."
    )


class CommandWavers(ModpkgError):
    code = "M796"
    template = (
        "{command!r} is not to be relied on: with {end} it {how}. Let it pass or fail for good, "
        "with a fixed seed say; a search would blame what is not to blame. What it printed: {log}"
    )


class ProjectChanged(ModpkgError):
    code = "M797"
    template = (
        "{path} was changed while the tests ran, so what they passed on is not what would be "
        "installed; nothing was changed. Run the command again: the runs made so far are kept."
    )
