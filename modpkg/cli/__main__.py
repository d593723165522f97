from modpkg.cli import main

main()
