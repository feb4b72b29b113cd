complete -c reconcilectl -n __fish_use_subcommand -f -a 'init key status plan sync history diff rollback retry pause resume resolve validate audit'
