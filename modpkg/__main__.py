import gc

gc.disable()  # what is imported stays, and the collector would look at it again and again

from modpkg.cli import main  # noqa: E402

main()
