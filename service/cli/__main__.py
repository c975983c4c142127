"""`python -m service.cli`: how the supervisor starts its processes."""

from service.cli import main

if __name__ == "__main__":
    main()
