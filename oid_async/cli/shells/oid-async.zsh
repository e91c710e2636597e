#compdef oid-async
# Completion of oid-async for zsh, printed by: oid-async completion zsh
#
# It starts no program but awk, and asks no server. Class names come from the lists that the cache keeps beside its
# class tables. What the functions find is left in the array found of their caller.

# The options of a command.
_oid_async_options() {
    found=()
    case $1 in
# @OPTIONS@
    esac
}

# What stands behind an option; nothing behind a switch.
_oid_async_value() {
    found=()
    case $1 in
# @VALUES@
    esac
}

# What stands as the argument of a command.
_oid_async_argument() {
    found=()
    case $1 in
# @ARGUMENTS@
    esac
}

# Where a site's lists of class names are: those with boxes, and all.
_oid_async_lists() {
    found=()
    case $1 in
# @LISTS@
    esac
}

# The file of class names that the words on the line ask for; $1 is classes or labels.
_oid_async_list() {
    local word option= value release=v7 root=$OID_ASYNC_CACHE mirror=$OID_ASYNC_MIRROR kind=$1 list
    local -a roots files
    for word in "${(@Q)words[3,CURRENT-1]}"; do
        value=$word
        if [[ $word == --* ]]; then
            option=${word%%=*}
            [[ $word == *=* ]] || continue
            value=${word#*=}
        fi
        value=${value/#\~\//$HOME/}
        case $option=$value in
            --release=*) release=$value ;;
            --cache-dir=*) root=$value ;;
            --mirror=*) mirror=$value ;;
            --kind=(label|point|all) | --select-by=(label|point)) kind=labels ;;
        esac
    done
    _oid_async_lists $release
    [[ $kind == labels ]] && found=($found[2] $found[1])
    roots=("${XDG_CACHE_HOME:-$HOME/.cache}/oid-async" "$HOME/Library/Caches/oid-async")
    [[ -n $root ]] && roots=("$root")
    for list in $found; do
        for root in $roots; do
            # Of a mirror, whose folder has a name that is made of its address, any is taken.
            files=($root/mirror-*/$list(N.))
            if [[ -r $root/published/$list ]]; then
                [[ -n $mirror ]] && files+=($root/published/$list) || files=($root/published/$list $files)
            fi
            found=($files[1])
            (($#found)) && return 0
        done
    done
    return 1
}

# Offer the class names that begin with what is typed, in any case; with _ for a blank where it is written so, as the
# program takes them.
_oid_async_classes() {
    if ! _oid_async_list $1; then
        _message 'no class names are cached yet; oid-async classes fetches them'
        return 1
    fi
    found=("${(@f)$(
        OID_ASYNC_WORD=${(Q)PREFIX} awk '
            BEGIN { word = tolower(ENVIRON["OID_ASYNC_WORD"]); has_line = gsub(/_/, " ", word) }
            substr(tolower($0), 1, length(word)) != word { next }
            ++count > 2000 { exit }
            { if (has_line) gsub(/ /, "_"); print }
        ' $found[1]
    )}")
    [[ -n $found ]] && compadd -M 'm:{[:lower:][:upper:]}={[:upper:][:lower:]}' -a found
}

# Offer what may stand at the cursor: the arguments are a kind of value and its words.
_oid_async_offer() {
    local kind=$1
    local -a given
    shift
    case $kind in
        words) compadd -a argv ;;
        commas)
            # What is there is not offered again.
            [[ $PREFIX == *,* ]] && given=(${(s:,:)${${PREFIX%,*}#[\"\']}})
            argv=(${argv:|given})
            compset -P '*,'
            compadd -S '' -a argv
            ;;
        classes | labels) _oid_async_classes $kind ;;
        files) _files ;;
        folders) _files -/ ;;
        *) _message 'a value' ;;
    esac
}

_oid-async() {
    local word=$words[CURRENT] before=$words[CURRENT-1] command=$words[2]
    local -a found
    if ((CURRENT == 2)); then
        # @COMMANDS@
        if [[ $word == -* ]]; then
            found=('--help:what the program does' '--version:its version')
        fi
        _describe command found
        return
    fi
    if [[ $word == --*=* ]]; then
        compset -P 1 '*='
        before=${word%%=*}
    fi
    _oid_async_value $before
    if ((!$#found)) && [[ $word == -* ]]; then
        _oid_async_options $command
        _describe -o option found
        return
    fi
    (($#found)) || _oid_async_argument $command
    (($#found)) && _oid_async_offer $found
}

# As a file of the name _oid-async in a folder of fpath, or read by eval in .zshrc behind compinit.
if [[ $funcstack[1] == _oid-async ]]; then
    _oid-async "$@"
else
    compdef _oid-async oid-async
fi
