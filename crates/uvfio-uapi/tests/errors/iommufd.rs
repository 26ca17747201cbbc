//! `/dev/iommu`.

use rustix::io::Errno;
use uvfio_uapi::Node;

use crate::Argument::{Bytes, Value};
use crate::common::{Memory, NOWHERE, Program, sys};
use crate::{Case, check};

const IOVA: u64 = 0x10_0000;
const BOTH: u32 = sys::READABLE | sys::WRITEABLE;
const RDWR_AT: u32 = BOTH | sys::FIXED;

/// An address space's number.
pub(crate) fn ioas(program: &Program, iommu: i32) -> u32 {
    let mut argument = sys::words(&[12, 0, 0]);
    program
        .ioctl(iommu, sys::IOAS_ALLOC, &mut argument)
        .expect("an address space");
    sys::u32_at(&argument, 8)
}

/// What is wrong with every structure that begins with its size.
fn sized(size: u32) -> Vec<Case> {
    let mut tail = vec![0; size as usize + 8];
    tail[..4].copy_from_slice(&(size + 8).to_ne_bytes());
    *tail.last_mut().expect("it is longer") = 1;
    let mut huge = vec![0; size as usize];
    huge[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
    let mut short = vec![0; size as usize];
    short[..4].copy_from_slice(&(size - 1).to_ne_bytes());
    vec![
        Case("no memory there", Value(NOWHERE), Err(Errno::FAULT)),
        Case("size 0", Bytes(vec![0; size as usize]), Err(Errno::INVAL)),
        Case("size a byte short", Bytes(short), Err(Errno::INVAL)),
        Case("something behind it", Bytes(tail), Err(Errno::TOOBIG)),
        Case("4 GiB", Bytes(huge), Err(Errno::TOOBIG)),
    ]
}

#[test]
fn what_can_be_wrong_with_address_spaces() {
    let program = Program::edu();
    let iommu = program.open(Node::Iommu);
    let there = ioas(&program, iommu);
    let mut longer = sys::words(&[20, 0, 0, 0, 0]);
    assert_eq!(
        program.ioctl(iommu, sys::IOAS_ALLOC, &mut longer),
        Ok(0),
        "zeros behind it"
    );
    let mut cases = sized(12);
    cases.push(Case(
        "flags",
        Bytes(sys::words(&[12, 1, 0])),
        Err(Errno::OPNOTSUPP),
    ));
    check(&program, iommu, sys::IOAS_ALLOC, cases);
    let mut cases = sized(8);
    cases.extend([
        Case(
            "none of that number",
            Bytes(sys::words(&[8, 77])),
            Err(Errno::NOENT),
        ),
        Case("number 0", Bytes(sys::words(&[8, 0])), Err(Errno::NOENT)),
        Case("it", Bytes(sys::words(&[8, there])), Ok(0)),
        Case("it, again", Bytes(sys::words(&[8, there])), Err(Errno::NOENT)),
    ]);
    check(&program, iommu, sys::DESTROY, cases);
    for request in (0x3b8b..=0x3bff).chain(0x3b00..0x3b64).chain(0x3b67..0x3b70) {
        assert_eq!(
            program.ioctl_value(iommu, request, NOWHERE),
            Err(Errno::NOTTY),
            "{request:#x}"
        );
    }
}

#[test]
fn what_can_be_wrong_with_maps_and_unmaps() {
    let program = Program::edu();
    let iommu = program.open(Node::Iommu);
    let space = ioas(&program, iommu);
    let memory = Memory::new(16 * 4096);
    let here = memory.address();
    let map = |flags, ioas, address, bytes, iova| Bytes(sys::ioas_map(flags, ioas, address, bytes, iova));
    let refused = |what, argument, errno| Case(what, argument, Err(errno));
    let mut reserved = sys::ioas_map(RDWR_AT, space, here, 4096, IOVA);
    reserved[12] = 1;
    let mut cases = sized(40);
    cases.extend([
        refused(
            "an unknown flag",
            map(RDWR_AT | 8, space, here, 4096, IOVA),
            Errno::OPNOTSUPP,
        ),
        refused("a reserved field", Bytes(reserved), Errno::OPNOTSUPP),
        refused(
            "neither for reads nor for writes",
            map(sys::FIXED, space, here, 4096, IOVA),
            Errno::INVAL,
        ),
        refused(
            "no such address space",
            map(RDWR_AT, 77, here, 4096, IOVA),
            Errno::NOENT,
        ),
        refused(
            "the last IOVA",
            map(RDWR_AT, space, here, 4096, u64::MAX),
            Errno::OVERFLOW,
        ),
        refused(
            "the longest length",
            map(RDWR_AT, space, here, u64::MAX, IOVA),
            Errno::OVERFLOW,
        ),
        refused("no bytes", map(RDWR_AT, space, here, 0, IOVA), Errno::INVAL),
        refused(
            "an address past 2^64",
            map(RDWR_AT, space, u64::MAX - 4095, 8192, IOVA),
            Errno::OVERFLOW,
        ),
        refused(
            "an IOVA past 2^64",
            map(RDWR_AT, space, here, 8192, u64::MAX - 4095),
            Errno::OVERFLOW,
        ),
        refused(
            "an IOVA not on a page",
            map(RDWR_AT, space, here, 4096, IOVA + 8),
            Errno::INVAL,
        ),
        refused(
            "past 48 bits",
            map(RDWR_AT, space, here, 4096, 1 << 48),
            Errno::INVAL,
        ),
        refused(
            "in the interrupts' window",
            map(RDWR_AT, space, here, 4096, 0xfee0_0000),
            Errno::INVAL,
        ),
        refused(
            "memory that is not there",
            map(RDWR_AT, space, 0, 4096, IOVA),
            Errno::FAULT,
        ),
        Case("it", map(RDWR_AT, space, here, 8192, IOVA), Ok(0)),
        refused(
            "over it",
            map(RDWR_AT, space, here, 4096, IOVA + 4096),
            Errno::EXIST,
        ),
    ]);
    check(&program, iommu, sys::IOAS_MAP, cases);

    let unmap = |ioas, iova, bytes| Bytes(sys::ioas_unmap(ioas, iova, bytes));
    let mut cases = sized(24);
    cases.extend([
        refused("no such address space", unmap(77, IOVA, 8192), Errno::NOENT),
        refused("no bytes", unmap(space, IOVA, 0), Errno::INVAL),
        refused("a part of it", unmap(space, IOVA, 4096), Errno::NOENT),
        refused("its other part", unmap(space, IOVA + 4096, 4096), Errno::NOENT),
        refused(
            "where nothing is",
            unmap(space, IOVA + (1 << 30), 4096),
            Errno::NOENT,
        ),
        refused("past 2^64", unmap(space, u64::MAX - 4095, 8192), Errno::OVERFLOW),
        refused("the last IOVA", unmap(space, u64::MAX, 1), Errno::OVERFLOW),
        refused(
            "the longest length from 1 on",
            unmap(space, 1, u64::MAX),
            Errno::OVERFLOW,
        ),
        Case("all around it", unmap(space, 0, 1 << 40), Ok(0)),
        refused("nothing more", unmap(space, 0, 1 << 40), Errno::NOENT),
        Case("everything, of nothing", unmap(space, 0, u64::MAX), Ok(0)),
    ]);
    check(&program, iommu, sys::IOAS_UNMAP, cases);

    // Somewhere: each where there is room, and the caller is told where.
    let mut places = Vec::new();
    for _ in 0..3 {
        let mut argument = sys::ioas_map(BOTH, space, here, 4096, 0xdead_beef);
        assert_eq!(program.ioctl(iommu, sys::IOAS_MAP, &mut argument), Ok(0));
        places.push(sys::u64_at(&argument, 32));
    }
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 3, "{places:x?}");
    let mut all = sys::ioas_unmap(space, 0, u64::MAX);
    assert_eq!(program.ioctl(iommu, sys::IOAS_UNMAP, &mut all), Ok(0));
    assert_eq!(sys::u64_at(&all, 16), 3 * 4096);
}

#[test]
fn a_copy_maps_the_same_memory_in_another_address_space() {
    let program = Program::edu();
    let iommu = program.open(Node::Iommu);
    let (one, two) = (ioas(&program, iommu), ioas(&program, iommu));
    let memory = Memory::new(16 * 4096);
    for page in [0, 1] {
        let mut map = sys::ioas_map(RDWR_AT, one, memory.address(), 4096, IOVA + page * 4096);
        program.ioctl(iommu, sys::IOAS_MAP, &mut map).expect("mapped");
    }
    let copy = |flags, to, from, bytes, to_iova, from_iova| {
        Bytes(sys::ioas_copy(flags, to, from, bytes, to_iova, from_iova))
    };
    let refused = |what, argument, errno| Case(what, argument, Err(errno));
    let mut cases = sized(40);
    cases.extend([
        refused(
            "an unknown flag",
            copy(RDWR_AT | 8, two, one, 8192, 0, IOVA),
            Errno::OPNOTSUPP,
        ),
        refused(
            "neither for reads nor for writes",
            copy(1, two, one, 8192, 0, IOVA),
            Errno::INVAL,
        ),
        refused("from none", copy(RDWR_AT, two, 77, 8192, 0, IOVA), Errno::NOENT),
        refused("to none", copy(RDWR_AT, 77, one, 8192, 0, IOVA), Errno::NOENT),
        refused("of nothing", copy(RDWR_AT, two, one, 8192, 0, 0), Errno::NOENT),
        refused(
            "of more than there is",
            copy(RDWR_AT, two, one, 3 * 4096, 0, IOVA),
            Errno::NOENT,
        ),
        refused("no bytes", copy(RDWR_AT, two, one, 0, 0, IOVA), Errno::INVAL),
        refused(
            "the longest length",
            copy(RDWR_AT, two, one, u64::MAX, 0, IOVA),
            Errno::OVERFLOW,
        ),
        Case("both pages", copy(RDWR_AT, two, one, 8192, 0x8000, IOVA), Ok(0)),
        refused(
            "over them",
            copy(RDWR_AT, two, one, 4096, 0x9000, IOVA),
            Errno::EXIST,
        ),
        refused(
            "half over them: nothing of it stays",
            copy(RDWR_AT, two, one, 8192, 0x7000, IOVA),
            Errno::EXIST,
        ),
        Case(
            "where that began",
            copy(RDWR_AT, two, one, 4096, 0x7000, IOVA),
            Ok(0),
        ),
        Case(
            "into itself, somewhere",
            copy(BOTH, one, one, 8192, 0, IOVA),
            Ok(0),
        ),
    ]);
    check(&program, iommu, sys::IOAS_COPY, cases);

    // Whether it may be written was said when it was mapped; a copy that may not does not change that.
    let (three, four) = (ioas(&program, iommu), ioas(&program, iommu));
    let mut map = sys::ioas_map(sys::READABLE | sys::FIXED, three, memory.address(), 4096, IOVA);
    program.ioctl(iommu, sys::IOAS_MAP, &mut map).expect("mapped");
    let only_read = sys::READABLE | sys::FIXED;
    let cases = vec![
        refused(
            "read only, to be written",
            copy(RDWR_AT, four, three, 4096, 0, IOVA),
            Errno::PERM,
        ),
        Case("read only", copy(only_read, four, three, 4096, 0, IOVA), Ok(0)),
        Case(
            "of what can be written",
            copy(only_read, four, one, 4096, 0x1000, IOVA),
            Ok(0),
        ),
        Case(
            "that again, to be written",
            copy(RDWR_AT, four, four, 4096, 0x2000, 0x1000),
            Ok(0),
        ),
    ];
    check(&program, iommu, sys::IOAS_COPY, cases);
}

#[test]
fn locked_memory_is_counted_once_however_often_it_is_copied() {
    let program = Program::edu();
    let iommu = program.open(Node::Iommu);
    let (one, two) = (ioas(&program, iommu), ioas(&program, iommu));
    let memory = Memory::new(3 * 4096);
    program.limit_locked_memory(8192);
    let map = |bytes| {
        let mut argument = sys::ioas_map(RDWR_AT, one, memory.address(), bytes, IOVA);
        program.ioctl(iommu, sys::IOAS_MAP, &mut argument)
    };
    assert_eq!(map(3 * 4096), Err(Errno::NOMEM));
    assert_eq!(map(8192), Ok(0));
    let mut copy = sys::ioas_copy(RDWR_AT, two, one, 8192, IOVA, IOVA);
    assert_eq!(program.ioctl(iommu, sys::IOAS_COPY, &mut copy), Ok(0));
    let unmap = |ioas| program.ioctl(iommu, sys::IOAS_UNMAP, &mut sys::ioas_unmap(ioas, IOVA, 8192));
    assert_eq!(
        (unmap(one), program.locked_memory()),
        (Ok(0), 8192),
        "the copy has it"
    );
    assert_eq!((unmap(two), program.locked_memory()), (Ok(0), 0));
}

#[test]
fn what_can_be_wrong_with_ranges_and_options() {
    let program = Program::edu();
    let iommu = program.open(Node::Iommu);
    let space = ioas(&program, iommu);
    let list = Memory::new(4096);
    let at = list.address();
    let ranges = |ioas, count, list| Bytes(sys::ioas_ranges(ioas, count, list));
    let refused = |what, argument, errno| Case(what, argument, Err(errno));
    let mut cases = sized(32);
    cases.extend([
        refused("no such address space", ranges(77, 2, at), Errno::NOENT),
        refused("no room", ranges(space, 0, at), Errno::MSGSIZE),
        refused("room for one", ranges(space, 1, at), Errno::MSGSIZE),
        refused("no memory for the list", ranges(space, 2, NOWHERE), Errno::FAULT),
        Case("room", ranges(space, 10, at), Ok(0)),
    ]);
    check(&program, iommu, sys::IOAS_RANGES, cases);
    assert_eq!(
        (sys::u64_at(&list.get(8, 8), 0), sys::u64_at(&list.get(16, 8), 0)),
        (0xfedf_ffff, 0xfef0_0000)
    );
    let mut counted = sys::ioas_ranges(space, 0, at);
    let _ = program.ioctl(iommu, sys::IOAS_RANGES, &mut counted);
    assert_eq!(
        (sys::u32_at(&counted, 8), sys::u64_at(&counted, 24)),
        (2, 4096),
        "told without room"
    );

    let allow = |count: u32, words: &[u64]| {
        for (n, word) in words.iter().enumerate() {
            list.put(n as u64 * 8, &word.to_ne_bytes());
        }
        let mut argument = sys::ioas_ranges(space, count, at)[..24].to_vec();
        sys::seal(&mut argument);
        program.ioctl(iommu, sys::IOAS_ALLOW, &mut argument)
    };
    assert_eq!(
        allow(1, &[0x8000, 0x7fff]),
        Err(Errno::INVAL),
        "from its end to its beginning"
    );
    assert_eq!(
        allow(2, &[0x8000, 0x9fff, 0x9000, 0xafff]),
        Err(Errno::INVAL),
        "overlapping"
    );
    assert_eq!(allow(1, &[0x8000, 0x9fff]), Ok(0));
    let memory = Memory::new(4096);
    let somewhere = || {
        let mut argument = sys::ioas_map(BOTH, space, memory.address(), 4096, 0);
        program
            .ioctl(iommu, sys::IOAS_MAP, &mut argument)
            .map(|_| sys::u64_at(&argument, 32))
    };
    assert_eq!(
        (somewhere(), somewhere(), somewhere()),
        (Ok(0x8000), Ok(0x9000), Err(Errno::NOSPC))
    );
    assert_eq!(allow(1, &[u64::MAX - 1, u64::MAX]), Ok(0), "in the last page");
    assert_eq!(somewhere(), Err(Errno::NOSPC));
    assert_eq!(allow(0, &[]), Ok(0), "anywhere again");
    assert!(somewhere().is_ok());

    let option = |option, op, object, value| Bytes(sys::option(option, op, object, value));
    let mut cases = sized(24);
    cases.extend([
        refused("no such option", option(9, 1, space, 0), Errno::OPNOTSUPP),
        refused("no such operation", option(1, 2, space, 0), Errno::OPNOTSUPP),
        refused(
            "a reserved field",
            option(1, 1 | 1 << 16, space, 0),
            Errno::OPNOTSUPP,
        ),
        refused(
            "accounting of an object",
            option(0, 1, space, 0),
            Errno::OPNOTSUPP,
        ),
        refused("accounting otherwise", option(0, 0, 0, 1), Errno::PERM),
        Case("accounting", option(0, 1, 0, 7), Ok(0)),
        refused("large pages of nothing", option(1, 1, 77, 0), Errno::NOENT),
        refused("large pages 2", option(1, 0, space, 2), Errno::INVAL),
        Case("large pages", option(1, 1, space, 0), Ok(0)),
        Case("large pages off", option(1, 0, space, 0), Ok(0)),
    ]);
    check(&program, iommu, sys::OPTION, cases);
    let mut get = sys::option(1, 1, space, 9);
    program.ioctl(iommu, sys::OPTION, &mut get).expect("got");
    assert_eq!(sys::u64_at(&get, 16), 0, "they are off");
}

#[test]
fn vfio_s_requests_go_to_the_address_space_that_a_group_made() {
    let program = Program::edu();
    let iommu = program.open(Node::Iommu);
    let memory = Memory::new(8 * 4096);
    let here = memory.address();
    let extensions = [(1, 1), (3, 1), (9, 1), (10, 0), (8, 0), (7, 0)];
    for (extension, has) in extensions {
        assert_eq!(
            program.ioctl_value(iommu, sys::CHECK_EXTENSION, extension),
            Ok(has),
            "{extension}"
        );
    }
    assert_eq!(program.ioctl_value(iommu, sys::GET_API_VERSION, 0), Ok(0));
    let no_device = Err(Errno::NODEV);
    assert_eq!(program.ioctl_value(iommu, sys::CHECK_EXTENSION, 4), no_device);
    assert_eq!(program.ioctl_value(iommu, sys::SET_IOMMU, 3), no_device);
    assert_eq!(program.map(iommu, IOVA, here, 4096, sys::READ), no_device);
    assert_eq!(
        program.ioctl(iommu, sys::IOMMU_GET_INFO, &mut sys::sealed(vec![0; 24])),
        no_device
    );
    let which = |program: &Program| {
        let mut argument = sys::words(&[12, 0, 0]);
        program
            .ioctl(iommu, sys::VFIO_IOAS, &mut argument)
            .map(|_| sys::u32_at(&argument, 4))
    };
    assert_eq!(which(&program), no_device.map(|value: i32| value as u32));

    let group = program.open(Node::Group(7));
    program.set_container(group, iommu).expect("it plays a container");
    assert!(which(&program).is_ok());
    assert_eq!(program.ioctl_value(iommu, sys::CHECK_EXTENSION, 4), Ok(1));
    assert_eq!(program.ioctl_value(iommu, sys::SET_IOMMU, 4), Err(Errno::INVAL));
    assert_eq!(program.ioctl_value(iommu, sys::SET_IOMMU, sys::TYPE1V2), Ok(0));
    let mut info = sys::sealed(vec![0; 200]);
    program
        .ioctl(iommu, sys::IOMMU_GET_INFO, &mut info)
        .expect("info");
    assert_eq!(sys::u32_at(&info, 16), 24, "capabilities");
    assert_eq!(
        (sys::u32_at(&info, 24) & 0xffff, sys::u32_at(&info, 32)),
        (3, u32::MAX),
        "mappings left"
    );

    let map = |flags| Bytes(sys::map(flags, here, IOVA, 4 * 4096));
    let refused = |what, argument, errno| Case(what, argument, Err(errno));
    let mut cases = crate::structure(32);
    cases.extend([
        refused("a new address", map(sys::VADDR), Errno::INVAL),
        refused("neither READ nor WRITE", map(0), Errno::INVAL),
        Case("it", map(3), Ok(0)),
        refused("it again", map(3), Errno::EXIST),
    ]);
    check(&program, iommu, sys::MAP_DMA, cases);
    let unmap = |flags, iova, bytes| Bytes(sys::unmap(flags, iova, bytes));
    let mut cases = crate::structure(24);
    cases.extend([
        refused("a bitmap", unmap(1, IOVA, 4 * 4096), Errno::INVAL),
        refused("an address", unmap(4, IOVA, 4 * 4096), Errno::INVAL),
        refused("ALL with a range", unmap(2, IOVA, 4096), Errno::INVAL),
        refused("a part of it", unmap(0, IOVA, 4096), Errno::NOENT),
        refused("nothing", unmap(0, 0, 4096), Errno::NOENT),
        Case("it", unmap(0, IOVA, 4 * 4096), Ok(0)),
        Case("ALL of nothing", unmap(2, 0, 0), Ok(0)),
    ]);
    check(&program, iommu, sys::UNMAP_DMA, cases);
    assert_eq!(
        program.ioctl_value(iommu, sys::DIRTY_PAGES, NOWHERE),
        Err(Errno::NOTTY)
    );

    // As version 1, mappings are cut.
    assert_eq!(program.ioctl_value(iommu, sys::SET_IOMMU, sys::TYPE1), Ok(0));
    assert_eq!(program.map(iommu, IOVA, here, 4 * 4096, sys::READ), Ok(0));
    assert_eq!(program.unmap(iommu, IOVA + 4096, 4096, 0), Ok(4096));
    assert_eq!(program.map(iommu, IOVA + 4096, here, 4096, sys::READ), Ok(0));
    assert_eq!(program.unmap(iommu, 0, 0, sys::UNMAP_ALL), Ok(4 * 4096));
}
