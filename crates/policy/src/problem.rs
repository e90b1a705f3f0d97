//! Everything that can be wrong with a rule, a command or a file, in iptables' own words where it
//! has some.

use keepstate_engine::tuple::Family;

/// Why a rule, a command or a line was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    // The words of a command.
    #[error("unknown option \"{0}\"")]
    OptionUnknown(String),
    #[error("option \"{option}\" is ambiguous; possibilities: {candidates}")]
    OptionAmbiguous { option: String, candidates: String },
    #[error("option \"{0}\" requires an argument")]
    ArgumentMissing(String),
    #[error("option \"{0}\" takes no argument")]
    ArgumentUnexpected(String),
    #[error("Bad argument `{0}'")]
    ArgumentBad(String),
    #[error("\"{0}\" must stand apart from its argument, with a space between them")]
    ArgumentAttached(String),
    #[error("{what} is not supported yet")]
    NotSupported { what: String },
    #[error("no command specified")]
    CommandMissing,
    #[error("Cannot use {second} with {first}")]
    CommandsTwo { first: String, second: String },
    #[error("Illegal option `{0}' with this command")]
    OptionIllegal(String),
    #[error("multiple {0} flags not allowed")]
    OptionTwice(String),
    #[error("{0} requires a chain and a policy")]
    PolicyArguments(String),
    #[error("{0} requires old-chain-name and new-chain-name")]
    RenameArguments(String),
    #[error("{0} requires a rule number")]
    RuleNumberMissing(String),
    #[error("Invalid rule number `{0}'")]
    RuleNumberInvalid(String),
    #[error("{0} requires packet and byte counter")]
    CounterArguments(String),
    #[error("counter \"{0}\" is not a number of 64 bits")]
    CounterInvalid(String),
    #[error("wait seconds not numeric")]
    WaitInvalid,
    #[error("multiple consecutive ! not allowed")]
    NegationTwice,
    #[error("nothing appropriate following !")]
    NegationDangling,
    #[error("cannot have ! before {0}")]
    NegationMisplaced(String),
    #[error("{0} is a command for the other address family")]
    FamilyOption(&'static str),
    #[error("table '{0}' does not exist")]
    TableUnknown(String),
    #[error("The -t option cannot be used in iptables-restore.")]
    TableInRestore,

    // What a rule matches.
    #[error("host/network `{0}' not found")]
    AddressInvalid(String),
    #[error("invalid mask `{0}' specified")]
    MaskInvalid(String),
    #[error("! not allowed with multiple source or destination IP addresses")]
    AddressListNegated,
    #[error("a rule for more than {0} pairs of addresses")]
    AddressListTooLong(usize),
    #[error("Replacement rule does not specify a unique address")]
    AddressListReplacing,
    #[error("! {0} excludes every address, so the rule would never match")]
    AddressNever(String),
    #[error("unknown protocol \"{0}\" specified")]
    ProtocolUnknown(String),
    #[error("rule would never match protocol")]
    ProtocolNever,
    #[error("invalid port/service `{0}' specified")]
    PortInvalid(String),
    #[error("invalid portrange (min > max)")]
    PortRangeInverted,
    #[error("{0} match requires '-p {1}'")]
    PortsWithoutProtocol(String, String),
    #[error("Empty interface is likely to be undesired")]
    InterfaceEmpty,
    #[error("interface name `{0}' must be shorter than IFNAMSIZ (15)")]
    InterfaceTooLong(String),
    #[error("interface `{0}' has a character that no interface has")]
    InterfaceCharacter(String),
    #[error("Can't use {option} with {chain}")]
    InterfaceInChain {
        option: &'static str,
        chain: &'static str,
    },
    #[error("Couldn't load match `{0}'")]
    MatchUnknown(String),
    #[error("{0}: At least one option is required")]
    MatchEmpty(&'static str),
    #[error("{module}: option \"--{option}\" must be specified")]
    MatchOptionMissing {
        module: &'static str,
        option: &'static str,
    },
    #[error("{module}: option \"--{option}\" can only be used once.")]
    MatchOptionTwice {
        module: &'static str,
        option: &'static str,
    },
    /// In the words of one match.
    #[error("{0}")]
    Match(String),
    #[error("Bad {option} \"{value}\"")]
    StateUnknown { option: &'static str, value: String },
    #[error("CT: `{0}' is not a name")]
    CtName(String),
    #[error("Cannot parse {0} as a zone ID")]
    CtZone(String),
    #[error("Unknown event type \"{0}\"")]
    CtEvent(String),
    #[error("CT: `--zone mark' is not supported")]
    CtZoneMark,
    #[error("comment: longer than 255 bytes")]
    CommentTooLong,
    #[error("comment: contains a line break or NUL")]
    CommentCharacter,

    // Chains.
    #[error("Chain already exists.")]
    ChainExists,
    #[error("File exists.")]
    ChainRenameExists,
    #[error("No chain/target/match by that name.")]
    ChainUnknown,
    #[error("Chain '{0}' does not exist")]
    TargetUnknown(String),
    #[error("a rule cannot jump to the built-in chain {0}")]
    TargetBuiltin(String),
    #[error("Invalid chain name `{0}'")]
    ChainNameInvalid(String),
    #[error("chain name not allowed to start with `{0}'")]
    ChainNameStart(char),
    #[error("chain name `{0}' too long (must be under 29 chars)")]
    ChainNameTooLong(String),
    #[error("chain name may not clash with target name")]
    ChainNameIsTarget,
    #[error(" CHAIN_DEL failed (Device or resource busy): chain {0}")]
    ChainBusy(String),
    #[error("{0} is a built-in chain and cannot be renamed")]
    ChainBuiltinRename(String),
    #[error("Bad built-in chain name.")]
    PolicyChain,
    #[error("Bad policy name.")]
    PolicyName,
    #[error("Index of insertion too big.")]
    InsertionTooFar,
    #[error("Index of deletion too big.")]
    DeletionTooFar,
    #[error("Index of replacement too big.")]
    ReplacementTooFar,
    #[error("a family may have at most {0} rules")]
    TooManyRules(u32),
    #[error(" {change} failed ({error}): rule in chain {chain}")]
    RuleRefused {
        change: &'static str,
        error: &'static str,
        chain: String,
    },
    #[error("Bad rule (does a matching rule exist in that chain?).")]
    RuleMissing,

    // Files.
    #[error("a line outside of a table: \"*filter\" is expected first")]
    OutsideOfTable,
    #[error("COMMIT expected")]
    CommitMissing,
    #[error("a table begins before the COMMIT of the one before")]
    TableNested,
    #[error("table `{0}' {instead}", instead = instead_of_table(.0))]
    TableNotSupported(String),
    #[error("a chain is declared as `:NAME POLICY [PACKETS:BYTES]'")]
    DeclarationMalformed,
    #[error("the chain {0} is not a built-in chain: its policy must be `-'")]
    DeclarationPolicy(String),
    #[error("counters are written as [PACKETS:BYTES]")]
    CountersMalformed,
    #[error("this quotation mark is not closed")]
    QuoteOpen,
    #[error("{0} lists rules and has no place in a file that is restored")]
    ListingInRestore(String),
    #[error("`{0}' is not a command that a rules file may have")]
    ScriptCommand(String),
    #[error("the shell would interpret `{0}'; here it is not")]
    ScriptSyntax(char),
    #[error("these rules are for {0}, where the other family is expected")]
    FamilyMismatch(&'static str),
    #[error("`service iptables save' does nothing here")]
    NoteServiceSave,
    #[error("{0} lists rules, which does nothing here")]
    NoteListing(String),
    #[error("table `{0}' is not supported yet and is empty, so this does nothing")]
    NoteEmptyTable(String),
}

impl Problem {
    /// What iptables exits with: 1 where the kernel refused, 2 for a wrong command line, 3 for a
    /// table that does not exist, 4 where something is in use.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::ChainExists
            | Self::ChainRenameExists
            | Self::ChainUnknown
            | Self::ChainBuiltinRename(_)
            | Self::PolicyChain
            | Self::PolicyName
            | Self::InsertionTooFar
            | Self::DeletionTooFar
            | Self::ReplacementTooFar
            | Self::RuleMissing
            | Self::OutsideOfTable
            | Self::CommitMissing => 1,
            Self::TableUnknown(_) => 3,
            Self::ChainBusy(_)
            | Self::TargetBuiltin(_)
            | Self::RuleRefused { .. }
            | Self::AddressNever(_) => 4,
            _ => 2,
        }
    }
}

/// Why there are no rules of a table, and what to do instead.
fn instead_of_table(name: &str) -> &'static str {
    match name {
        "nat" => {
            "cannot be had: Keepstate translates no addresses. Leave that to a router beside this \
             host, and write rules of filter for the addresses that are seen here"
        }
        "security" => {
            "cannot be had: its rules label packets for SELinux and the like. What is to pass or \
             not is said by rules of filter"
        }
        _ => "is not supported: only filter, mangle and raw are",
    }
}

/// How the family is called where only one is meant.
pub(crate) const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
