from tunebook_cli.main import main

main()
