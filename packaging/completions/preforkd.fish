# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_preforkd_global_optspecs
    string join \n c/config= daemonize h/help V/version
end

function __fish_preforkd_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_preforkd_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_preforkd_using_subcommand
    set -l cmd (__fish_preforkd_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c preforkd -n "__fish_preforkd_needs_command" -s c -l config -d 'The configuration file' -r -F
complete -c preforkd -n "__fish_preforkd_needs_command" -l daemonize -d 'Detach from the terminal; return once the pools accept connections'
complete -c preforkd -n "__fish_preforkd_needs_command" -s h -l help -d 'Print help'
complete -c preforkd -n "__fish_preforkd_needs_command" -s V -l version -d 'Print version'
complete -c preforkd -n "__fish_preforkd_needs_command" -f -a "run" -d 'Run the pools (the default)'
complete -c preforkd -n "__fish_preforkd_needs_command" -f -a "check" -d 'Check the configuration, and change nothing'
complete -c preforkd -n "__fish_preforkd_needs_command" -f -a "reload" -d 'Make the running daemon reload its configuration, and tell how that ended'
complete -c preforkd -n "__fish_preforkd_needs_command" -f -a "import" -d 'Print pools for what inetd.conf or the files of xinetd have'
complete -c preforkd -n "__fish_preforkd_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c preforkd -n "__fish_preforkd_using_subcommand run" -s c -l config -d 'The configuration file' -r -F
complete -c preforkd -n "__fish_preforkd_using_subcommand run" -l daemonize -d 'Detach from the terminal; return once the pools accept connections'
complete -c preforkd -n "__fish_preforkd_using_subcommand run" -s h -l help -d 'Print help'
complete -c preforkd -n "__fish_preforkd_using_subcommand check" -s c -l config -d 'The configuration file' -r -F
complete -c preforkd -n "__fish_preforkd_using_subcommand check" -s h -l help -d 'Print help'
complete -c preforkd -n "__fish_preforkd_using_subcommand reload" -s c -l config -d 'The configuration file' -r -F
complete -c preforkd -n "__fish_preforkd_using_subcommand reload" -l result -d 'Only wait for the reload that a signal has asked for; print nothing unless it failed'
complete -c preforkd -n "__fish_preforkd_using_subcommand reload" -s h -l help -d 'Print help'
complete -c preforkd -n "__fish_preforkd_using_subcommand import" -s c -l config -d 'The configuration file' -r -F
complete -c preforkd -n "__fish_preforkd_using_subcommand import" -s h -l help -d 'Print help'
complete -c preforkd -n "__fish_preforkd_using_subcommand help; and not __fish_seen_subcommand_from run check reload import help" -f -a "run" -d 'Run the pools (the default)'
complete -c preforkd -n "__fish_preforkd_using_subcommand help; and not __fish_seen_subcommand_from run check reload import help" -f -a "check" -d 'Check the configuration, and change nothing'
complete -c preforkd -n "__fish_preforkd_using_subcommand help; and not __fish_seen_subcommand_from run check reload import help" -f -a "reload" -d 'Make the running daemon reload its configuration, and tell how that ended'
complete -c preforkd -n "__fish_preforkd_using_subcommand help; and not __fish_seen_subcommand_from run check reload import help" -f -a "import" -d 'Print pools for what inetd.conf or the files of xinetd have'
complete -c preforkd -n "__fish_preforkd_using_subcommand help; and not __fish_seen_subcommand_from run check reload import help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
