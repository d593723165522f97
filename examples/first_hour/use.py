"""Use the app's models in Python."""

import modpkg

model = modpkg.load("formal")  # a torch.nn.Module: base and adapter, merged
print(type(model).__name__, sum(p.numel() for p in model.parameters()), "parameters")

answer = modpkg.pipeline(["formal", "brief"], live=True)  # one base, two adapters beside it
for adapter in ("formal", "brief"):
    print(f"{adapter}: {answer('Is the shop open today?', adapter=adapter).text}")
