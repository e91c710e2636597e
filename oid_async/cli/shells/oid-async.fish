# Completion of oid-async for fish 3 or newer, printed by: oid-async completion fish
#
# It starts no program but awk, and asks no server. Class names come from the lists that the cache keeps beside its
# class tables. What a function finds it prints.

# The options of a command, each with what it is for.
function __oid_async_options
    set -l found
    switch $argv[1]
# @OPTIONS@
    end
    printf '%s\n' $found
end

# What stands behind an option; nothing behind a switch.
function __oid_async_value
    set -l found
    switch "$argv[1]"
# @VALUES@
    end
    printf '%s\n' $found
end

# What stands as the argument of a command.
function __oid_async_argument
    set -l found
    switch $argv[1]
# @ARGUMENTS@
    end
    printf '%s\n' $found
end

# Where a site's lists of class names are: those with boxes, and all.
function __oid_async_lists
    set -l found
    switch $argv[1]
# @LISTS@
    end
    printf '%s\n' $found
end

# The file of class names that the words on the line ask for: classes or labels, then the words.
function __oid_async_list
    set -l kind $argv[1]
    set -l option
    set -l release v7
    set -l mirror $OID_ASYNC_MIRROR
    set -l roots $HOME/.cache/oid-async $HOME/Library/Caches/oid-async
    test -n "$XDG_CACHE_HOME"; and set roots[1] $XDG_CACHE_HOME/oid-async
    test -n "$OID_ASYNC_CACHE"; and set roots $OID_ASYNC_CACHE
    for word in $argv[2..-1]
        set -l value $word
        if string match -q -- '--*' $word
            set -l parts (string split -m 1 = -- $word)
            set option $parts[1]
            set -q parts[2]; or continue
            set value $parts[2]
        end
        switch "$option=$value"
            case '--release=?*'
                set release $value
            case '--cache-dir=?*'
                set roots (string replace -r '^~/' $HOME/ -- $value)
            case '--mirror=?*'
                set mirror $value
            case '--kind=label' '--kind=point' '--kind=all' '--select-by=label' '--select-by=point'
                set kind labels
        end
    end
    set -l lists (__oid_async_lists $release)
    test $kind = labels; and set lists $lists[-1..1]
    for list in $lists
        for root in $roots
            # Of a mirror, whose folder has a name that is made of its address, any is taken.
            set -l mirrored $root/mirror-*/$list
            set -l files $root/published/$list $mirrored
            test -n "$mirror"; and set files $mirrored $root/published/$list
            for file in $files
                if test -r $file
                    printf '%s\n' $file
                    return
                end
            end
        end
    end
end

# The names in a file that begin with a word, in any case, else those that have it in them, as fish chooses; with _ for
# a blank where the word is written so, as the program takes them.
function __oid_async_names
    set -l word (string replace -r '^["\']' '' -- $argv[2])
    # What a backslash is taken away from depends on the quote that is open.
    switch $argv[2]
        case '"*'
            set word (string replace -ra '\\\\(["$\\\\])' '$1' -- $word)
        case "'*"
            set word (string replace -ra '\\\\([\'\\\\])' '$1' -- $word)
        case '*'
            set word (string unescape -- $word)
    end
    OID_ASYNC_WORD="$word" awk '
        BEGIN { word = tolower(ENVIRON["OID_ASYNC_WORD"]); has_line = gsub(/_/, " ", word) }
        {
            at = index(tolower($0), word)
            if (has_line) gsub(/ /, "_")
        }
        at == 1 && ++begun <= 2000 { print }
        at > 1 && ++within <= 2000 { names[within] = $0 }
        END { if (!begun) for (each = 1; each in names; each++) print names[each] }
    ' $argv[1]
end

# What may stand at the cursor: a kind of value with its words, and the word that is begun.
function __oid_async_offer
    set -l word $argv[1]
    set -l words $argv[3..-1]
    switch $argv[2]
        case words
            printf '%s\n' $words
        case commas
            # An open quote stands before what is offered already.
            set -l given (string replace -r '^["\']' '' -- $word | string replace -r '[^,]*$' '')
            # What is there is not offered again.
            for each in $words
                contains -- $each (string split , -- $given); or printf '%s\n' "$given$each"
            end
        case classes labels
            set -l file (__oid_async_list $argv[2] (commandline -opc)[3..-1])
            test -n "$file"; and __oid_async_names $file $word
        case files
            # As fish completes what it knows nothing of.
            complete -C"__oid_async_unknown $word"
        case folders
            complete -C"__oid_async_unknown $word" | string match -r '^[^\t]*/(?=\t|$)'
    end
end

function __oid_async_complete
    set -l before (commandline -opc)
    set -l word (commandline -ct)
    if not set -q before[2]
        set -l found
        # @COMMANDS@
        string match -q -- '-*' $word; and set found --help --version
        printf '%s\n' $found
        return
    end
    set -l command $before[2]
    if string match -q -- '--*=*' $word
        set -l parts (string split -m 1 = -- $word)
        set -l value (__oid_async_value $parts[1])
        test -n "$value"; and __oid_async_offer "$parts[2]" $value | string replace -r '^' -- "$parts[1]="
        return
    end
    set -l value (__oid_async_value $before[-1])
    if test -z "$value"; and string match -q -- '-*' $word
        __oid_async_options $command
        return
    end
    test -n "$value"; or set value (__oid_async_argument $command)
    test -n "$value"; and __oid_async_offer "$word" $value
end

complete -c oid-async -e
complete -c oid-async -f -a '(__oid_async_complete)'
