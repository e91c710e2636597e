# Completion of oid-async for bash 4.4 or newer, printed by: oid-async completion bash
#
# It starts no program but awk, and asks no server. Class names come from the lists that the cache keeps beside its
# class tables. What the functions find is left in _oid_async_found.

# The options of a command.
_oid_async_options() {
    _oid_async_found=
    case $1 in
# @OPTIONS@
    esac
}

# What stands behind an option; nothing behind a switch.
_oid_async_value() {
    _oid_async_found=
    case $1 in
# @VALUES@
    esac
}

# What stands as the argument of a command.
_oid_async_argument() {
    _oid_async_found=
    case $1 in
# @ARGUMENTS@
    esac
}

# Where a site's lists of class names are: those with boxes, and all.
_oid_async_lists() {
    _oid_async_found=
    case $1 in
# @LISTS@
    esac
}

# A word without its quotes and backslashes; the quote that is open is left in _oid_async_quote.
_oid_async_plain() {
    _oid_async_quote=
    case $1 in
        \"* | \'*) _oid_async_quote=${1:0:1} _oid_async_found=${1:1} ;;
        *) _oid_async_found=$1 ;;
    esac
    # Without -r it takes the backslashes away.
    [[ $_oid_async_quote == \' ]] || IFS= read -d '' _oid_async_found <<<"$_oid_async_found"
    _oid_async_found=${_oid_async_found%$'\n'}
    _oid_async_found=${_oid_async_found/#\~\//$HOME/}
}

# The file of class names that the words on the line ask for; $1 is classes or labels.
_oid_async_list() {
    local at option= release=v7 root=${OID_ASYNC_CACHE-} mirror=${OID_ASYNC_MIRROR-} kind=$1 list file
    # The quotes of earlier words are not that of the word at the cursor.
    local _oid_async_quote
    local -a lists roots
    for ((at = 2; at < COMP_CWORD; at++)); do
        case ${COMP_WORDS[at]} in
            =) continue ;;
            --*) option=${COMP_WORDS[at]} && continue ;;
        esac
        _oid_async_plain "${COMP_WORDS[at]}"
        [[ -n $_oid_async_quote ]] && _oid_async_found=${_oid_async_found%"$_oid_async_quote"}
        case $option=$_oid_async_found in
            --release=*) release=$_oid_async_found ;;
            --cache-dir=*) root=$_oid_async_found ;;
            --mirror=*) mirror=$_oid_async_found ;;
            --kind=label | --kind=point | --kind=all | --select-by=label | --select-by=point) kind=labels ;;
        esac
    done
    _oid_async_lists "$release"
    lists=($_oid_async_found)
    [[ $kind == labels ]] && lists=("${lists[1]}" "${lists[0]}")
    roots=("${XDG_CACHE_HOME:-$HOME/.cache}/oid-async" "$HOME/Library/Caches/oid-async")
    [[ -n $root ]] && roots=("$root")
    for list in "${lists[@]}"; do
        for root in "${roots[@]}"; do
            # Of a mirror, whose folder has a name that is made of its address, any is taken.
            for file in ${mirror:+"$root"/mirror-*/"$list"} "$root/published/$list" "$root"/mirror-*/"$list"; do
                _oid_async_found=$file
                [[ -r $file ]] && return 0
            done
        done
    done
    return 1
}

# Offer the class names that begin with $2, in any case and with _ for a blank, as the program takes them.
_oid_async_classes() {
    _oid_async_list "$1" || return 0
    local style=${_oid_async_quote:-plain} file=$_oid_async_found
    # Where the names are shown and none is typed they stand as they are.
    [[ $COMP_TYPE == 63 ]] && style=none
    # A pipe that mapfile reads is read byte by byte, which takes longer than the rest.
    local - IFS=$'\n'
    set -f
    COMPREPLY=($(
        OID_ASYNC_WORD=$2 OID_ASYNC_STYLE=$style awk '
            BEGIN {
                typed = ENVIRON["OID_ASYNC_WORD"]; word = tolower(typed); gsub(/_/, " ", word)
                style = ENVIRON["OID_ASYNC_STYLE"]
            }
            substr(tolower($0), 1, length(word)) != word { next }
            ++count > 2000 { exit }
            { names[count] = $0 }
            END {
                for (each = 1; each in names; each++) {
                    # Of several bash keeps the letters that all of them begin with: those typed, in the case typed.
                    name = names[each]
                    if (style != "none" && 2 in names) name = typed substr(name, length(word) + 1)
                    print quoted(name)
                }
            }
            function quoted(name) {
                if (style == "plain") gsub(/[] !"#$&\047()*;<=>?[\\^`{|}~:]/, "\\\\&", name)
                # A backslash within double quotes stays where it keeps bash from its history.
                if (style == "\"") { gsub(/["$`\\]/, "\\\\&", name); gsub(/!/, "\"\\!\"", name) }
                if (style == "\047") gsub(/\047/, "\047\\\047\047", name)
                # A word that ends in its quote is taken for closed.
                if (style != "none" && substr(name, length(name)) == style) name = name style
                return name
            }
        ' "$file"
    ))
}

# Offer what may stand at the cursor: $1 is a kind of value and its words, $2 the word that is begun.
_oid_async_offer() {
    local kind=${1%% *} words=${1#* } given each left=
    case $kind in
        words) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$2") ;;
        commas)
            given=${2%"${2##*,}"}
            # What is there is not offered again.
            for each in $words; do
                [[ ,$given == *",$each,"* ]] || left+=" $each"
            done
            mapfile -t COMPREPLY < <(compgen -P "$given" -W "$left" -- "${2##*,}")
            compopt -o nospace
            ;;
        classes | labels) _oid_async_classes "$kind" "$2" ;;
        files | folders)
            compopt -o filenames
            [[ $kind == files ]] && kind=-f || kind=-d
            mapfile -t COMPREPLY < <(compgen "$kind" -- "$2")
            ;;
    esac
}

_oid_async() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]}
    local _oid_async_found _oid_async_quote
    COMPREPLY=()
    # The words are cut at each =, as in --kind=label.
    if [[ $word == = ]]; then
        word=
    elif [[ $before == = ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if ((COMP_CWORD == 1)); then
        # @COMMANDS@
        [[ $word == -* ]] && _oid_async_found='--help --version'
        mapfile -t COMPREPLY < <(compgen -W "$_oid_async_found" -- "$word")
        return
    fi
    if [[ $before == *[\<\>] ]]; then
        _oid_async_found=files
    else
        _oid_async_value "$before"
    fi
    if [[ -z $_oid_async_found && $word == -* ]]; then
        _oid_async_options "$command"
        mapfile -t COMPREPLY < <(compgen -W "$_oid_async_found" -- "$word")
        return
    fi
    [[ -n $_oid_async_found ]] || _oid_async_argument "$command"
    before=$_oid_async_found
    _oid_async_plain "$word"
    _oid_async_offer "$before" "$_oid_async_found"
}

complete -F _oid_async oid-async
