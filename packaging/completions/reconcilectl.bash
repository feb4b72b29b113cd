complete -W 'init key status plan sync history diff rollback retry pause resume resolve validate audit' reconcilectl
