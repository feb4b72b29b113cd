# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_reconcilectl_global_optspecs
    string join \n h/help V/version
end

function __fish_reconcilectl_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_reconcilectl_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_reconcilectl_using_subcommand
    set -l cmd (__fish_reconcilectl_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -s V -l version -d 'Print version'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "init" -d 'Make the repository that is pushed to, and print the remote to add'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "key" -d 'Manage the keys that may push'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "secret" -d 'Seal secrets for this host'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "status" -d 'Show how things stand'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "plan" -d 'Plan and rehearse a revision that is in the repository; apply nothing'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "explain" -d 'Say why a revision was refused or rolled back, with cause and remedy'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "sync" -d 'Run one full cycle now: fetch the remotes, repair drift, and wait for it'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "history" -d 'List the generations, newest first'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "diff" -d 'Show how the host differs from the live generation, or from another one'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "rollback" -d 'Go back to the content of an earlier generation'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "retry" -d 'Try a held revision again'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "pause" -d 'Apply nothing until resume; drift is only reported'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "resume" -d 'Go on after a pause'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "confirm" -d 'Keep a change of how the host is reached'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "resolve" -d 'Decide what becomes of something that a rollback could not put back'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "validate" -d 'Check a repository\'s work tree; needs neither the daemon nor root'
complete -c reconcilectl -n "__fish_reconcilectl_needs_command" -f -a "audit" -d 'Review the audit log'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand init" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand key; and not __fish_seen_subcommand_from add list remove" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand key; and not __fish_seen_subcommand_from add list remove" -f -a "add" -d 'Let the public key on standard input push'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand key; and not __fish_seen_subcommand_from add list remove" -f -a "list" -d 'List the keys'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand key; and not __fish_seen_subcommand_from add list remove" -f -a "remove" -d 'Take a key\'s right to push away'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand key; and __fish_seen_subcommand_from add" -l preview -d 'It may only preview: plan and rehearse, never apply'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand key; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand key; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand key; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand secret; and not __fish_seen_subcommand_from seal recipient" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand secret; and not __fish_seen_subcommand_from seal recipient" -f -a "seal" -d 'Seal a secret for this host: plain text in, a file for secrets/NAME.age out'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand secret; and not __fish_seen_subcommand_from seal recipient" -f -a "recipient" -d 'Print what secrets of this host are sealed to, for age -r'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand secret; and __fish_seen_subcommand_from seal" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand secret; and __fish_seen_subcommand_from recipient" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand status" -l json -d 'Print JSON'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand plan" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand explain" -l json -d 'Print JSON'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand sync" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand history" -l json -d 'Print JSON'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand history" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand diff" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand rollback" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand retry" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand pause" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand resume" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand confirm" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand resolve" -l keep -d 'Keep what stands there now'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand resolve" -l restore -d 'Put back what stood there before'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand resolve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand validate" -l host -d 'Read the layer of this host; by default that of this machine, whose facts are taken in any case' -r
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand validate" -l strict -d 'Fail on notes too'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand validate" -l settings -d 'Check the daemon\'s settings and guards instead'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand validate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and not __fish_seen_subcommand_from log show verify export" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and not __fish_seen_subcommand_from log show verify export" -f -a "log" -d 'List records, one line each, oldest first'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and not __fish_seen_subcommand_from log show verify export" -f -a "show" -d 'Show one record whole, with its differences'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and not __fish_seen_subcommand_from log show verify export" -f -a "verify" -d 'Check the chain: an edited, dropped, swapped or cut record is found'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and not __fish_seen_subcommand_from log show verify export" -f -a "export" -d 'Print the log as it is, for keeping it elsewhere'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from log" -l since -d 'Only since then: 2026-04-01, 2026-04-01T12:00:00Z (UTC), or 2h for two hours ago' -r
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from log" -l until -d 'Only until then' -r
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from log" -l path -d 'Only what changed this path or something below it' -r -F
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from log" -l unit -d 'Only what touched this unit' -r
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from log" -l outcome -d 'Only this outcome' -r -f -a "intent\t''
live\t''
refused\t''
rolled-back\t''
stuck\t''
resolved\t''
recovered\t''
drift-found\t''
drift-repaired\t''
let-go\t''
held\t''
retried\t''
preview\t''
alarm\t''
paused\t''
resumed\t''
confirmed\t''
started\t''
stopped\t''
reloaded\t''"
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from log" -l actor -d 'Only what this actor asked for: a key\'s name, a user, or drift' -r
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from log" -s n -l limit -d 'Only the newest so many' -r
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from log" -l json -d 'Print JSON, one record a line'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from log" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from show" -l json -d 'Print JSON'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from verify" -l head -d 'A head that was noted elsewhere, as every push prints it; may be repeated' -r
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from verify" -s h -l help -d 'Print help'
complete -c reconcilectl -n "__fish_reconcilectl_using_subcommand audit; and __fish_seen_subcommand_from export" -s h -l help -d 'Print help'
